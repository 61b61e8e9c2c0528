"""How much to cut without training, of what, and what is done for the rest. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pruning.allocation.allocation_config import Allocation, KlKnapsack
from pruning.allocation.constraints import Constraints
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.plans.cost import CostModel, make_cost_model
from pruning.strict_json import JsonMapping
from pruning.training.training_configs import RecoveryConfig, require_one_of, require_positive

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """Set what a scoring run measures.

        prune:
          scoring:
            saliency: obs
            allocation: {num_levels: 12, num_measured: 4}

    Attributes:
        saliency: Saliency: obs, nirvana, fisher, taylor, flap, magnitude, or your own by its import
            path, package.module:Name.
        allocation: How a budget is shared between the sub-blocks.
        dtype: Data type of the weights while scoring and pruning; auto: as they are stored.
        damping: Damping of the repair at each point of a damage curve (see repair).
        draw_budget: Kept fraction of the parameters at which calibration draws are compared.
    """

    saliency: str = "obs"
    allocation: Allocation = field(default_factory=KlKnapsack)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    damping: float = 1e-2
    draw_budget: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.saliency.strip():
            raise NirvanaError("saliency must name one, such as obs, got nothing.")
        require_one_of(self, "dtype", DTYPES)
        require_positive(self, "damping")
        if not 0 < self.draw_budget < 1:
            raise NirvanaError(
                f"draw_budget must be a fraction above 0 and below 1, got {self.draw_budget}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastSquares:
    """Fit the kept columns of each output projection anew, block after block.

        prune:
          scoring: {saliency: obs}
          repair: {damping: 0.01}

    Attributes:
        damping: Pull towards the dense weights, as a fraction of the inputs' mean square.
        corrects_residual: Also correct the error of the preceding blocks, in models whose blocks
            add to a residual stream.
    """

    damping: float = 1e-2
    corrects_residual: bool = True

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.damping > 0:
            raise NirvanaError(f"damping must be above 0, got {self.damping}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanShift:
    """Add what the removed units give on average to the output projection's bias (FLAP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRepair:
    """Leave the weights that stay as they are."""


Repair = LeastSquares | MeanShift | NoRepair


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotConfig:
    """Set the budget, its constraints and the repair of pruning without training.

        prune:
          budget: 0.5
          scoring: {saliency: obs}                     # tells it from a section of gates
          constraints: {neuron_multiple: 64}
          repair: least_squares

    Attributes:
        budget: Fraction of the blocks' cost to keep, in (0, 1].
        cost: What the budget counts.
        sequence_length: Sequence length at which the MACs of attentions are counted.
        bytes_dtype: Data type in which the bytes of the weights are counted.
        allocation: How the budget is shared between the sub-blocks; by default as in the scoring
            run.
        repair: Repair of the units that are kept.
        recovery: Training of the pruned model with the dense one as its teacher.
    """

    budget: float = 0.5
    cost: Literal["macs", "parameters", "bytes"] = "macs"
    sequence_length: int = 128
    bytes_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float16"
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    allocation: Allocation | None = None
    constraints: Constraints = field(default_factory=Constraints)
    repair: Repair = field(default_factory=LeastSquares)
    recovery: RecoveryConfig | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        check_budgets((self.budget,))
        require_one_of(self, "cost", ("macs", "parameters", "bytes"))
        require_positive(self, "sequence_length")

    @property
    def cost_model(self) -> CostModel:
        """Return what counts the cost."""
        return make_cost_model(self.cost, self.sequence_length, self.bytes_dtype)


def check_budgets(budgets: Sequence[float]) -> None:
    """Raise NirvanaError unless there are budgets, all of them fractions, none twice."""
    if not budgets:
        raise NirvanaError("Expected one budget or more, such as 0.7 0.5 0.3, got none.")
    for budget in budgets:
        if not 0 < budget <= 1:
            raise NirvanaError(
                "budget must be a fraction above 0 and at most 1 (0.5 keeps half of the blocks' "
                f"cost), got {budget}."
            )
    twice = [budget for number, budget in enumerate(budgets) if budget in budgets[:number]]
    if twice:
        raise NirvanaError(f"Each budget makes a folder; {twice[0]} was given twice. Give it once.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """What a budget counts instead of the cost that a config names.

    Attributes:
        about: what was asked in its terms, and where the prices are from: plain data, kept with
            the plan and the figures.
    """

    cost: CostModel
    about: JsonMapping = field(default_factory=dict)


def cost_of(config: OneShotConfig, pricing: Pricing | None) -> CostModel:
    """Return what counts the cost of a budget."""
    return config.cost_model if pricing is None else pricing.cost
