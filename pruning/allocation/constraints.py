"""What may be kept of a sub-block: the counts that a server takes and a person allows."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.plans.dense_dims import DenseDims
from pruning.plans.sub_block import SubBlock, count_units
from pruning.training.training_configs import require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Limit how many units (KV groups with their query heads, neurons) a sub-block keeps.

        prune:
          constraints: {neuron_multiple: 64, min_groups: 1}

    Attributes:
        neuron_multiple: Kept MLP neurons are a multiple of this number, or all of them. Less than 8
            is of no use to hardware.
        min_groups: Smallest number of KV groups in an attention that is kept.
        min_neurons: Smallest number of neurons in an MLP that is kept.
        may_drop: Allow whole attentions and MLPs to be removed.
        avoid_one_head: Leave no attention with a single query head.
        tensor_parallel: Number of devices over which KV groups and neurons must split equally.
        uniform: Keep the same counts in every layer, so that any server loads the result.
    """

    neuron_multiple: int = 64
    min_groups: int = 1
    min_neurons: int = 0
    may_drop: bool = True
    avoid_one_head: bool = False
    tensor_parallel: int = 1
    uniform: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "neuron_multiple", "min_groups", "tensor_parallel")
        if self.min_neurons < 0:
            raise NirvanaError(f"min_neurons must be 0 or more, got {self.min_neurons}.")


def allowed_counts(
    sub_block: SubBlock, dims: DenseDims, constraints: Constraints
) -> tuple[int, ...]:
    """Return how many units a sub-block may keep, ascending; 0 where it may be emptied.

    The dense count is always allowed, unless `tensor_parallel` does not divide it.

    Raises:
        NirvanaError: `tensor_parallel` leaves no count but 0.
    """
    num_units = count_units(sub_block, dims)
    if sub_block.part == "mlp":
        counts = _allowed_neurons(num_units, constraints)
    else:
        heads_per_group = dims.layers[sub_block.layer].heads_per_group
        counts = _allowed_groups(num_units, heads_per_group, constraints)
    counts = [count for count in counts if count % constraints.tensor_parallel == 0]
    if not counts:
        unit = "neurons" if sub_block.part == "mlp" else "KV groups"
        limits = describe_constraints(constraints)
        raise NirvanaError(
            f"Layer {sub_block.layer}: no number of the {num_units} {unit} of its {sub_block.part} "
            f"can be split over {constraints.tensor_parallel} devices under {limits}. "
            "Lower tensor_parallel."
        )
    return (0, *counts) if constraints.may_drop else tuple(counts)


def _allowed_neurons(num_neurons: int, constraints: Constraints) -> list[int]:
    step = lcm(constraints.neuron_multiple, constraints.tensor_parallel)
    least = max(min(constraints.min_neurons, num_neurons), 1)
    return [count for count in range(step, num_neurons, step) if count >= least] + [num_neurons]


def _allowed_groups(num_groups: int, heads_per_group: int, constraints: Constraints) -> list[int]:
    least = min(constraints.min_groups, num_groups)
    if constraints.avoid_one_head and heads_per_group == 1:
        least = max(least, min(2, num_groups))
    return list(range(least, num_groups + 1))


def describe_constraints(constraints: Constraints) -> str:
    """Return the constraints that force something to stay, in words."""
    names = ["neuron_multiple", "min_groups", "min_neurons", "may_drop", "avoid_one_head"]
    names += ["tensor_parallel"] if constraints.tensor_parallel > 1 else []
    return ", ".join(f"{name}={getattr(constraints, name)}" for name in names)
