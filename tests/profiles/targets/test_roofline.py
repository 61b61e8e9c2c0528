"""Oracles: sums by hand, the MACs that pruning counts, and what must bind by construction."""

from dataclasses import replace

import pytest

from profiles.targets.block_work import CallShape, attention_work, mlp_work
from profiles.targets.roofline import RooflineCost, estimate_plan
from profiles.targets.target import Figure, Target, load_target
from pruning.errors import NirvanaError
from pruning.plans.cost import MacCost, plan_cost
from pruning.plans.plan import LayerPlan, PruningPlan
from tests.pruning.allocation.small_dims import GROUPED, PAIR, PLAIN

CALL = CallShape(batch=2, length=32)


def make_target(*, tera_ops: float = 1.0, gb_per_s: float = 100.0) -> Target:
    return Target(
        name="made-up",
        title="Made up",
        kind="gpu",
        memory_gb=1,
        compute_capability="8.0",
        memory_bandwidth_gb_per_s=Figure(value=gb_per_s, source="test"),
        tera_ops_per_s={"fp16": Figure(value=tera_ops, source="test")},
        alignment_bytes=None,
    )


def dense_plan(dims=PLAIN) -> PruningPlan:
    return PruningPlan.dense(dims, "")


@pytest.mark.parametrize("dims", [PLAIN, GROUPED], ids=["plain", "grouped"])
def test_operations_are_twice_the_macs(dims) -> None:
    stack = dims.stacks[0]
    price = MacCost(CALL.length)
    attention = attention_work(stack, 2, 1 if dims is GROUPED else 2, CALL, 2)
    expected = price.attention_cost(stack, 2, 1 if dims is GROUPED else 2)
    assert attention.operations == 2 * CALL.num_tokens * expected
    mlp = mlp_work(stack, 17, CALL, 2)
    assert mlp.operations == 2 * CALL.num_tokens * price.mlp_cost(stack, 17)


def test_bytes_by_hand() -> None:
    """Hidden 16, one head of 8: weights 4 x 16 x 8; x in and out, q k v and context twice."""
    stack = PLAIN.stacks[0]
    work = attention_work(stack, 1, 1, CallShape(batch=1, length=3), 2)
    assert work.num_bytes == 2 * (4 * 16 * 8 + 3 * (2 * 16 + 2 * 3 * 8 + 2 * 8))
    mlp = mlp_work(stack, 5, CallShape(batch=1, length=3), 2)  # gated: up, gate, down
    assert mlp.num_bytes == 2 * (3 * 16 * 5 + 3 * (2 * 16 + 2 * 2 * 5))


def test_the_cache_is_read_in_a_decoding_step() -> None:
    stack = GROUPED.stacks[0]
    without = attention_work(stack, 4, 2, CallShape(batch=3, length=1), 2)
    cached = attention_work(stack, 4, 2, CallShape(batch=3, length=1, past=100), 2)
    assert cached.num_bytes - without.num_bytes == 2 * 3 * 100 * 2 * 2 * 8
    assert cached.operations - without.operations == 4 * 3 * 100 * 4 * 8


@pytest.mark.parametrize(
    ("target", "bound"),
    [
        (make_target(tera_ops=1e-6, gb_per_s=1e9), "compute"),
        (make_target(tera_ops=1e9, gb_per_s=1e-3), "memory"),
        (make_target(tera_ops=1e9, gb_per_s=1e9), "launch"),
    ],
    ids=["slow units", "slow memory", "endless both"],
)
def test_what_binds_is_named(target: Target, bound: str) -> None:
    estimate = estimate_plan(dense_plan(), target, CALL, "fp16")
    assert estimate.bound == bound
    assert sum(estimate.shares.values()) == pytest.approx(1)
    assert estimate.to_json()["is_estimate"] is True
    assert "not calibrated: at least" in estimate.describe()


def test_compute_time_is_macs_over_rate() -> None:
    target = make_target(tera_ops=1e-6, gb_per_s=1e9)
    estimate = estimate_plan(dense_plan(GROUPED), target, CALL, "fp16")
    macs = plan_cost(dense_plan(GROUPED), MacCost(CALL.length)) * CALL.num_tokens
    norms = sum(part.latency_ms for part in estimate.parts if part.name.endswith("block"))
    assert estimate.latency_ms - norms == pytest.approx(2 * macs / 1e6 * 1e3, rel=1e-9)


def test_what_is_dropped_costs_nothing() -> None:
    plan = dense_plan(PAIR)
    gone = LayerPlan.drop_block()
    empty = LayerPlan(kept_heads=(), kept_neurons=None, kept_cross_heads=None)
    pruned = replace(plan, layers=(gone, plan.layers[1], empty, plan.layers[3]))
    names = [p.name for p in estimate_plan(pruned, make_target(), CALL, "fp16").parts]
    assert names == [
        "1.block", "1.attention", "1.mlp", "2.block",
        "3.block", "3.attention", "3.cross", "3.mlp",
    ]  # fmt: skip


@pytest.mark.parametrize("dims", [PLAIN, GROUPED, PAIR], ids=["plain", "grouped", "pair"])
def test_the_cost_model_is_the_estimate(dims) -> None:
    target = make_target(tera_ops=1e-4)
    cost = RooflineCost(target=target, call=CALL, precision="fp16")
    estimate = estimate_plan(dense_plan(dims), target, CALL, "fp16")
    assert cost.dense_ms(dims) == pytest.approx(estimate.latency_ms, rel=1e-4)


def test_a_larger_card_is_faster() -> None:
    slow, fast = (
        estimate_plan(dense_plan(), load_target(name), CallShape(batch=64, length=512), "fp16")
        for name in ("t4", "h100-sxm")
    )
    assert fast.latency_ms < slow.latency_ms


def test_calls_and_precisions_that_are_none_are_refused() -> None:
    with pytest.raises(NirvanaError, match="batch 0, length 1, past 0"):
        CallShape(batch=0, length=1)
    with pytest.raises(NirvanaError, match="has no rate for 'fp8'"):
        estimate_plan(dense_plan(), make_target(), CALL, "fp8")
    with pytest.raises(NirvanaError, match="has no rate for 'fp17'"):
        RooflineCost(target=make_target(), call=CALL, precision="fp17")
