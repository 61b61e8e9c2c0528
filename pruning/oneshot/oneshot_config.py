"""How much to cut without training, of what, and what is done for the rest. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pruning.allocation.allocation_config import Allocation
from pruning.allocation.constraints import Constraints
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.plans.cost import CostModel, make_cost_model
from pruning.repair.repair_config import LeastSquares, Repair
from pruning.scoring.scoring_config import ScoringConfig
from pruning.training.baseline_config import require_one_of, require_positive
from pruning.training.recovery_config import RecoveryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotConfig:
    """Set the budget, its constraints and the repair of pruning without training."""

    budget: float = field(
        default=0.5, metadata={"help": "Fraction of the blocks' cost to keep, in (0, 1]."}
    )
    cost: Literal["macs", "parameters", "bytes"] = field(
        default="macs", metadata={"help": "What the budget counts."}
    )
    sequence_length: int = field(
        default=128,
        metadata={"help": "Sequence length at which the MACs of attentions are counted."},
    )
    bytes_dtype: Literal["float32", "float16", "bfloat16", "int8"] = field(
        default="float16",
        metadata={"help": "Data type in which the bytes of the weights are counted."},
    )
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    allocation: Allocation | None = field(
        default=None,
        metadata={
            "help": "How the budget is shared between the sub-blocks; by default as in the "
            "scoring run."
        },
    )
    constraints: Constraints = field(default_factory=Constraints)
    repair: Repair = field(
        default_factory=LeastSquares, metadata={"help": "Repair of the units that are kept."}
    )
    recovery: RecoveryConfig | None = field(
        default=None,
        metadata={"help": "Training of the pruned model with the dense one as its teacher."},
    )

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
