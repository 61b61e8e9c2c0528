"""Oracle: the table's own prediction of the plan that an allocation makes of the fraction."""

import pytest

from profiles.latency.latency_config import (
    LatencyBudget,
    LatencyConfig,
    find_fraction,
    parse_latency,
)
from pruning.allocation.allocation_config import GlobalThreshold, Uniform, allocate
from pruning.allocation.constraints import Constraints
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from tests.profiles.small_tables import make_small_table
from tests.pruning.allocation.small_dims import GROUPED, draw_scores

LIMITS = Constraints(neuron_multiple=5)


@pytest.mark.parametrize(
    ("text", "ms"), [("12.5ms", 12.5), ("800us", 0.8), (" 0.2 S ", 200.0), (".5ms", 0.5)]
)
def test_a_latency_is_read_with_its_unit(text: str, ms: float) -> None:
    assert parse_latency(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["12.5", "ms", "-3ms", "12,5ms", "3 min", ""])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(NirvanaError, match=r"with its unit, such as 12\.5ms"):
        parse_latency(text)


@pytest.mark.parametrize("method", [Uniform(), GlobalThreshold()], ids=["uniform", "threshold"])
@pytest.mark.parametrize("asked_ms", [19.0, 15.0, 11.0, 8.0])
def test_the_budget_is_met_and_used(method, asked_ms: float) -> None:
    table = make_small_table()
    fraction = find_fraction(table, 20.0, GROUPED, LatencyBudget(latency_ms=asked_ms), LIMITS)
    layers = allocate(
        method, GROUPED, draw_scores(GROUPED), cost=table, budget=fraction, constraints=LIMITS
    )
    predicted = table.predict_ms(PruningPlan(dims=GROUPED, layers=layers, config_hash=""))
    largest_step = 1.0 if isinstance(method, GlobalThreshold) else 3 * 1.0
    assert asked_ms - largest_step < predicted <= asked_ms + 1e-6


def test_a_speedup_is_of_the_whole_model() -> None:
    table = make_small_table()
    twice = find_fraction(table, 20.0, GROUPED, LatencyBudget(speedup=2), LIMITS)
    assert twice == find_fraction(table, 20.0, GROUPED, LatencyBudget(latency_ms=10), LIMITS)
    # Blocks take 3 (2 + 3 + 0.1) = 15.3 of 20 ms; all 10 ms have to come from them.
    assert twice == pytest.approx(5.3 / 15.3)


@pytest.mark.parametrize("asked", [{"latency_ms": 50.0}, {"speedup": 1.0}], ids=["slow", "same"])
def test_a_dense_model_that_is_fast_enough_is_kept(asked) -> None:
    assert find_fraction(make_small_table(), 20.0, GROUPED, LatencyBudget(**asked), LIMITS) == 1


def test_what_cannot_be_reached_is_told_with_the_least() -> None:
    budget = LatencyBudget(speedup=10)
    with pytest.raises(NirvanaError, match=r"2 ms cannot be reached.* leave at least 5 ms of the"):
        find_fraction(make_small_table(), 20.0, GROUPED, budget, LIMITS)
    kept = Constraints(neuron_multiple=5, may_drop=False)  # 3 (0.8 + 0.5) more
    with pytest.raises(NirvanaError, match=r"may_drop=False.* leave at least 8.9 ms"):
        find_fraction(make_small_table(), 20.0, GROUPED, budget, kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "l40"}, "no target 'l40'.* Did you mean l40s"),
        ({"target": "t4", "precision": "bf16"}, "T4 has no rate for 'bf16'; it has fp32"),
        ({"precision": "fp16"}, "measured in fp32 on the CPU, got 'fp16'"),
    ],
    ids=["target", "rate", "table"],
)
def test_what_has_no_prices_is_refused_before_anything_is_trained(settings, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        LatencyConfig(speedup=2.0, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of the two"),
        ({"latency_ms": 3.0, "speedup": 2.0}, "one of the two"),
        ({"latency_ms": 0.0}, "must be above 0 ms, got 0"),
        ({"speedup": 0.5}, "must be 1 or more, got 0.5"),
    ],
    ids=["none", "both", "zero", "slower"],
)
def test_budgets_that_are_none_are_refused(settings, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        LatencyBudget(**settings)
