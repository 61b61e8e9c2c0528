import pytest

from pruning.allocation.constraints import Constraints, allowed_counts
from pruning.errors import NirvanaError
from pruning.plans.sub_block import SubBlock, count_units
from tests.pruning.allocation.small_dims import GROUPED, PAIR, PLAIN

EVERY = [
    Constraints(
        neuron_multiple=multiple,
        min_groups=min_groups,
        min_neurons=min_neurons,
        may_drop=may_drop,
        avoid_one_head=avoid,
        tensor_parallel=parallel,
    )
    for multiple in (1, 8, 12, 64)
    for min_groups in (1, 3, 9)
    for min_neurons in (0, 20)
    for may_drop in (True, False)
    for avoid in (True, False)
    for parallel in (1, 2)
]


def is_allowed(count: int, dense: int, one_head: bool, part: str, limits: Constraints) -> bool:
    """One rule after the other."""
    if count == 0:
        return limits.may_drop
    if count % limits.tensor_parallel:
        return False
    if count == dense:
        return True
    if part == "mlp":
        return count >= limits.min_neurons and count % limits.neuron_multiple == 0
    return count >= limits.min_groups and not (one_head and limits.avoid_one_head)


@pytest.mark.parametrize("dims", [PLAIN, GROUPED], ids=["plain", "grouped"])
@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_the_counts_are_those_that_nothing_forbids(dims, part) -> None:
    dense = count_units(SubBlock(1, part), dims)
    heads = dims.layers[1].heads_per_group
    for limits in EVERY:
        expected = tuple(
            count
            for count in range(dense + 1)
            if is_allowed(count, dense, count * heads == 1, part, limits)
        )
        assert allowed_counts(SubBlock(1, part), dims, limits) == expected


def test_cross_attentions_are_attentions() -> None:
    limits = Constraints(min_groups=2)
    assert allowed_counts(SubBlock(3, "cross_attention"), PAIR, limits) == (0, 2, 3)


def test_devices_that_divide_nothing_are_refused() -> None:
    with pytest.raises(
        NirvanaError, match=r"no number of the 4 KV groups of its attention.*over 5"
    ):
        allowed_counts(SubBlock(1, "attention"), PLAIN, Constraints(tensor_parallel=5))
    with pytest.raises(NirvanaError, match=r"48 neurons of its mlp.*neuron_multiple=64.*Lower"):
        allowed_counts(SubBlock(1, "mlp"), PLAIN, Constraints(tensor_parallel=5))


@pytest.mark.parametrize("name", ["neuron_multiple", "min_groups", "tensor_parallel"])
def test_steps_are_positive(name: str) -> None:
    with pytest.raises(NirvanaError, match=f"{name} must be above 0, got 0"):
        Constraints(**{name: 0})


def test_fewer_than_no_neurons_are_refused() -> None:
    with pytest.raises(NirvanaError, match="min_neurons must be 0 or more, got -1"):
        Constraints(min_neurons=-1)
