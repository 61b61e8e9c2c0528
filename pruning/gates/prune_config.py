"""How much to cut, of what, and how the gates learn it. No torch here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.allocation.constraints import Constraints
from pruning.errors import NirvanaError
from pruning.gates.gate_kinds import GateKind, GateUnits, StraightThrough
from pruning.number_ranges import check_numbers
from pruning.plans.cost import CostName
from pruning.training.training_configs import DistillationConfig as DistillationConfig
from pruning.training.training_configs import require_one_of, require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryConfig:
    """Stop and roll back when the held-out loss rises by more than both limits in one stage.

    The loss that it is compared with is that of the last good stage; before the first, of the first
    step. A loss that is no number is always too much.

        prune:
          canary: {max_loss_factor: 4.0, max_loss_rise: 2.0}

    Attributes:
        max_loss_factor: Largest factor by which the held-out loss may rise in a stage.
        max_loss_rise: Rise of the held-out loss that is always accepted.
    """

    max_loss_factor: float = 4.0
    max_loss_rise: float = 2.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.max_loss_factor < 1:
            raise NirvanaError(f"max_loss_factor must be 1 or more, got {self.max_loss_factor}.")
        if self.max_loss_rise < 0:
            raise NirvanaError(f"max_loss_rise must be 0 or more, got {self.max_loss_rise}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConstraint:
    """Steer the hard density to the target by an augmented Lagrangian (CoFi, arXiv 2204.00408).

        prune:
          objective: {multiplier_lr: 10.0, quadratic: 100.0}

    Attributes:
        multiplier_lr: Step size of the gradient ascent on lambda 1 (linear term).
        quadratic: Lambda 2 (quadratic term).
    """

    multiplier_lr: float = 10.0
    quadratic: float = 100.0

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "multiplier_lr", "quadratic")


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPenalty:
    """Add `alpha * sum(head gates) + beta * sum(mlp gates)` to the task loss.

        prune:
          objective: {alpha: 0.01, beta: 0.001}

    Attributes:
        alpha: Weight of the sum of all head gates.
        beta: Weight of the sum of all MLP gates.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.alpha < 0 or self.beta < 0:
            raise NirvanaError(
                f"alpha and beta must be 0 or more, got alpha={self.alpha}, beta={self.beta}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Shape the way from dense to the budget.

        prune:
          schedule: {kind: stepwise, num_stages: 4, prune_fraction: 0.4}

    Attributes:
        kind: How the target falls from 1 to the budget. With at_budget it is the budget from the
            first step, and gates start where one-shot pruning by warm_start ends, with its repair.
        num_stages: Number of pruning stages; each ends with a validation.
        prune_fraction: Fraction of the steps in which gates learn; the masks are frozen afterwards.
    """

    kind: Literal["stepwise", "linear", "cubic", "at_budget"] = "stepwise"
    num_stages: int = 4
    prune_fraction: float = 0.4

    def __post_init__(self) -> None:
        check_numbers(self)
        require_one_of(self, "kind", ("stepwise", "linear", "cubic", "at_budget"))
        require_positive(self, "num_stages")
        if not 0 < self.prune_fraction < 1:
            raise NirvanaError(
                f"prune_fraction must be above 0 and below 1, got {self.prune_fraction}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneConfig:
    """Set the budget and the training of the gates.

        prune:
          budget: 0.5       # half of the blocks' multiply-accumulates
          num_epochs: 2
          learning_rate: 3.0e-4
          schedule: {kind: stepwise, num_stages: 4}

    Attributes:
        budget: Fraction of the blocks' cost to keep, in (0, 1].
        cost: What the budget counts; bytes are those of float16.
        sequence_length: Sequence length at which the MACs of attentions are counted.
        canary: Stop and roll back if the held-out loss rises too far; null: never.
        warm_start: Saliency that ranks the units at the start, or the import path of your own.
        warm_start_rows: Training rows for that ranking; 0 turns the warm start off.
        gate_learning_rate: Learning rate of the gates (Adam).
        num_epochs: Passes over the training rows.
        learning_rate: Peak learning rate for the model weights.
        batch_size: Rows per step.
        seed: Random seed of row order and dropout.
        bf16: Train in bf16; by default if the hardware supports it.
        save_steps: Steps between resumable checkpoints.
        report_to: Where losses are also logged: none, tensorboard, ...
    """

    budget: float = 0.5
    cost: CostName = "macs"
    sequence_length: int = 128
    constraints: Constraints = field(default_factory=lambda: Constraints(neuron_multiple=8))
    gate_kind: GateKind = field(default_factory=StraightThrough)
    units: GateUnits = field(default_factory=GateUnits)
    objective: BudgetConstraint | FixedPenalty = field(default_factory=BudgetConstraint)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    canary: CanaryConfig | None = field(default_factory=CanaryConfig)
    warm_start: str | None = "fisher"
    warm_start_rows: int = 512
    gate_learning_rate: float = 0.1
    num_epochs: float = 3.0
    learning_rate: float = 2e-4
    batch_size: int = 32
    seed: int = 0
    bf16: bool | None = None
    save_steps: int = 40
    report_to: str = "none"

    @property
    def starts_from_data(self) -> bool:
        """Whether training rows decide where the gates start."""
        return self.warm_start is not None and self.warm_start_rows > 0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.budget <= 1:
            raise NirvanaError(
                f"budget must be a fraction above 0 and at most 1 (0.5 keeps half of the blocks' "
                f"{self.cost}), got {self.budget}."
            )
        require_one_of(self, "cost", get_args(CostName))
        require_positive(self, "sequence_length", "gate_learning_rate")
        require_positive(self, "num_epochs", "learning_rate", "batch_size", "save_steps")
        if self.warm_start_rows < 0:
            raise NirvanaError(f"warm_start_rows must be 0 or more, got {self.warm_start_rows}.")
        if self.schedule.kind == "at_budget":
            self._check_at_budget()

    def _check_at_budget(self) -> None:
        """Raise NirvanaError where gates cannot start with what one-shot pruning keeps."""
        if not self.starts_from_data:
            raise NirvanaError(
                "A schedule of kind at_budget starts from scores: set warm_start to a saliency and "
                f"warm_start_rows above 0, got {self.warm_start!r} and {self.warm_start_rows}."
            )
        if not isinstance(self.gate_kind, StraightThrough):
            raise NirvanaError(
                "A schedule of kind at_budget starts with what one-shot pruning keeps, whole: "
                f"expected straight-through gates, got {self.gate_kind}, which scale it. Leave "
                "gate_kind unset, or choose another schedule.kind."
            )
        if not (self.units.heads and self.units.neurons):
            raise NirvanaError(
                "A schedule of kind at_budget starts with heads and neurons shut: expected gates "
                f"for both, got {self.units}. Set units.heads and units.neurons to true, or choose "
                "another schedule.kind."
            )
