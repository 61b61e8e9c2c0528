"""Oracles: scikit-learn's isotonic regression, sums by hand, every plan of an allocation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from profiles.latency.latency_table import LatencyCurve, LatencyTable
from pruning.allocation.constraints import Constraints
from pruning.allocation.levels import list_items
from pruning.errors import NirvanaError
from pruning.plans.plan import LayerPlan, PruningPlan
from tests.profiles.small_tables import make_small_table
from tests.pruning.allocation.small_dims import GROUPED, PLAIN


def make_plan(*layers: tuple[int, int]) -> PruningPlan:
    """Keep (groups, neurons) in each layer; a group has two query heads."""
    kept = [
        LayerPlan(kept_heads=tuple(range(2 * groups)), kept_neurons=tuple(range(neurons)))
        for groups, neurons in layers
    ]
    return PruningPlan(dims=GROUPED, layers=tuple(kept), config_hash="")


@pytest.mark.parametrize("seed", range(20))
def test_the_curve_is_the_isotonic_regression(seed: int) -> None:
    draw = np.random.default_rng(seed)
    kept = [0, *np.sort(draw.choice(np.arange(1, 99), 8, replace=False)).tolist()]
    noisy = [0.0, *(0.05 * np.array(kept[1:]) + draw.normal(size=8)).tolist()]
    curve = LatencyCurve.fit(kept, noisy)
    expected = IsotonicRegression(y_min=0.0).fit_transform(np.arange(8), noisy[1:])
    np.testing.assert_allclose(curve.latency_ms[1:], expected)
    assert curve.latency_ms[0] == 0.0


def test_between_points_the_latency_is_linear() -> None:
    curve = make_small_table().attention
    assert [curve.at(n) for n in (0, 1, 2, 4)] == pytest.approx([0.0, 0.8, 1.2, 2.0])
    with pytest.raises(NirvanaError, match="covers 0 to 4 units, got 5"):
        curve.at(5)


def test_a_prediction_is_the_dense_latency_less_what_is_cut() -> None:
    table = make_small_table()
    assert table.predict_ms(PruningPlan.dense(GROUPED, "")) == 20.0
    plan = make_plan((4, 50), (1, 10), (0, 0))
    assert table.predict_ms(plan) == pytest.approx(20 - (2 - 0.8) - (3 - 1) - 2 - 3)
    dropped = replace(plan, layers=(plan.layers[0], plan.layers[1], LayerPlan.drop_block()))
    assert table.predict_ms(dropped) == pytest.approx(table.predict_ms(plan) - 0.1)


def test_blocks_that_run_faster_in_place_are_priced_so() -> None:
    """Of 20 ms the blocks take 12.24, where alone they took 15.3."""
    table = replace(make_small_table(), rest_ms=20 - 0.8 * 15.3)
    assert table.in_place == pytest.approx(0.8)
    assert table.predict_ms(make_plan((4, 50), (4, 50), (0, 0))) == pytest.approx(20 - 0.8 * 5)


def test_query_heads_of_a_group_count_in_part() -> None:
    table = make_small_table()
    one_of_two = table.attention_cost(GROUPED.stacks[0], 4, 4)
    assert one_of_two == table.attention_cost(GROUPED.stacks[0], 4, 2)


def test_widths_are_chosen_at_the_steps() -> None:
    """10 to 30 neurons cost the same: only the 30 are a choice."""
    items = list_items(GROUPED, make_small_table(), Constraints(neuron_multiple=10))
    (mlp,) = {item.counts for item in items if item.part == "mlp"}
    assert mlp == (0, 30, 40, 50)


def test_a_table_is_read_back(tmp_path: Path) -> None:
    table = make_small_table()
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table


def test_another_model_is_refused() -> None:
    with pytest.raises(NirvanaError, match="measured for num_heads 8, the model has 4"):
        make_small_table().mlp_cost(PLAIN.stacks[0], 3)


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(NirvanaError, match="found no file there"):
        LatencyTable.load(path)
    path.write_text("{")
    with pytest.raises(NirvanaError, match="is not JSON"):
        LatencyTable.load(path)
    path.write_text(json.dumps({"format": "nirvana-latency-table-0"}))
    with pytest.raises(NirvanaError, match=r"Expected a latency table .*got 'nirvana-latency-tab"):
        LatencyTable.load(path)
    data = make_small_table().to_json()
    del data["block_ms"]
    path.write_text(json.dumps(data))
    with pytest.raises(NirvanaError, match=r"The latency table lacks \['block_ms'\]"):
        LatencyTable.load(path)


@pytest.mark.parametrize("changes", [{"dense_ms": 1e300}, {"block_ms": 1e-320}])
def test_latencies_beyond_all_measure_are_refused(changes: dict[str, float]) -> None:
    data = make_small_table().to_json()
    zero = [0.0] * len(data["attention"]["latency_ms"]), [0.0] * len(data["mlp"]["latency_ms"])
    data["attention"]["latency_ms"], data["mlp"]["latency_ms"] = zero
    with pytest.raises(NirvanaError, match=r"latency of .* at most 1e\+09 is expected"):
        LatencyTable.from_json({**data, **changes})
