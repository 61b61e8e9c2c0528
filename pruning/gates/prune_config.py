"""How much to cut, of what, and how the gates learn it. No torch here."""

from dataclasses import dataclass, field
from typing import Literal

from pruning.errors import NirvanaError
from pruning.training.baseline_config import require_one_of, require_positive
from pruning.training.distillation_config import DistillationConfig as DistillationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConstraint:
    """Steer the hard density to the target with an augmented Lagrangian (METHODS: CoFi)."""

    multiplier_lr: float = field(
        default=10.0, metadata={"help": "step of the gradient ascent on lambda 1 (linear term)"}
    )
    quadratic: float = field(default=100.0, metadata={"help": "lambda 2 (quadratic term)"})

    def __post_init__(self) -> None:
        require_positive(self, "multiplier_lr", "quadratic")


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPenalty:
    """Add `alpha * sum(head gates) + beta * sum(mlp gates)` to the task loss."""

    alpha: float = field(metadata={"help": "weight of the sum of all head gates"})
    beta: float = field(metadata={"help": "weight of the sum of all MLP gates"})

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0:
            raise NirvanaError(
                f"alpha and beta must be 0 or more, got alpha={self.alpha}, beta={self.beta}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Shape the way from dense to the budget."""

    kind: Literal["stepwise", "linear", "cubic"] = field(
        default="stepwise", metadata={"help": "how the target falls from 1 to the budget"}
    )
    num_stages: int = field(
        default=4, metadata={"help": "pruning stages; each ends with a validation"}
    )
    prune_fraction: float = field(
        default=0.4,
        metadata={"help": "share of the steps in which gates learn; then masks are frozen"},
    )

    def __post_init__(self) -> None:
        require_one_of(self, "kind", ("stepwise", "linear", "cubic"))
        require_positive(self, "num_stages")
        if not 0 < self.prune_fraction < 1:
            raise NirvanaError(
                f"prune_fraction must be above 0 and below 1, got {self.prune_fraction}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneConfig:
    """Set the budget and the training of the gates."""

    budget: float = field(
        default=0.5, metadata={"help": "fraction of the blocks' cost to keep, in (0, 1]"}
    )
    cost: Literal["macs", "parameters"] = field(
        default="macs", metadata={"help": "what the budget counts"}
    )
    sequence_length: int = field(
        default=128, metadata={"help": "tokens at which attention MACs are counted"}
    )
    neuron_multiple: int = field(
        default=8, metadata={"help": "kept MLP neurons a layer are a multiple of this"}
    )
    objective: BudgetConstraint | FixedPenalty = field(default_factory=BudgetConstraint)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    warm_start_rows: int = field(
        default=512, metadata={"help": "rows for the Fisher ranking that starts the gates; 0: none"}
    )
    gate_learning_rate: float = field(default=0.1, metadata={"help": "Adam step of the gates"})
    num_epochs: float = field(default=3.0, metadata={"help": "passes over the training rows"})
    learning_rate: float = field(default=2e-4, metadata={"help": "of the weights, peak"})
    batch_size: int = field(default=32, metadata={"help": "rows a step"})
    seed: int = field(default=0, metadata={"help": "of row order and dropout"})
    bf16: bool | None = field(
        default=None, metadata={"help": "train in bf16; unset: where the hardware has it"}
    )
    save_steps: int = field(default=40, metadata={"help": "steps between resumable checkpoints"})

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise NirvanaError(
                f"budget must be a fraction above 0 and at most 1 (0.5 keeps half of the blocks' "
                f"{self.cost}), got {self.budget}."
            )
        require_one_of(self, "cost", ("macs", "parameters"))
        require_positive(self, "sequence_length", "neuron_multiple", "gate_learning_rate")
        require_positive(self, "num_epochs", "learning_rate", "batch_size", "save_steps")
        if self.warm_start_rows < 0:
            raise NirvanaError(f"warm_start_rows must be 0 or more, got {self.warm_start_rows}.")
