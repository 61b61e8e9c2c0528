"""How the dense baseline is fine-tuned before anything is cut."""

from dataclasses import dataclass, field
from typing import Literal

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineConfig:
    """Set the fine-tuning of the dense model.

        baseline:
          num_epochs: 2.5
          learning_rate: 5.0e-4

    Attributes:
        num_epochs: Passes over the training rows.
        learning_rate: Peak learning rate, followed by linear decay.
        batch_size: Rows per step.
        seed: Random seed of the classification head and of the row order.
        bf16: Train in bf16; by default if the hardware supports it.
        save_steps: Steps between resumable checkpoints.
        report_to: Where losses are also logged: none, tensorboard, ...
    """

    num_epochs: float = 3.0
    learning_rate: float = 2e-4
    batch_size: int = 32
    seed: int = 0
    bf16: bool | None = None
    save_steps: int = 40
    report_to: str = "none"

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.num_epochs > 0:
            raise NirvanaError(
                f"num_epochs must be above 0, got {self.num_epochs}. For a model that is "
                "fine-tuned already, leave it out and set fine_tuned: true at the top of the "
                "recipe (or give --fine-tuned)."
            )
        require_positive(self, "learning_rate", "batch_size", "save_steps")


def require_one_of(config: object, name: str, values: tuple[str, ...]) -> None:
    """Raise NirvanaError unless the named field of `config` is one of `values`."""
    value = getattr(config, name)
    if value not in values:
        raise NirvanaError(f"{name} must be one of {', '.join(values)}, got {value!r}.")


def require_positive(config: object, *names: str) -> None:
    """Raise NirvanaError for the first named field of `config` that is not above zero."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise NirvanaError(f"{name} must be above 0, got {value}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """Teach the pruned model with the fine-tuned dense one.

        prune:
          distillation: {weight: 0.9, temperature: 2.0}

    Attributes:
        weight: Weight of the distillation loss in the sum of both losses; 0 turns it off.
        temperature: Temperature that softens both distributions.
        hidden_weight: Weight of the hidden states' relative error; 0 turns it off.
        num_hidden_layers: Number of layers of the teacher whose hidden states are matched.
        hidden_projection: Map from the pruned model's hidden states to the teacher's.
    """

    weight: float = 0.9
    temperature: float = 2.0
    hidden_weight: float = 0.0
    num_hidden_layers: int = 4
    hidden_projection: Literal["identity", "learned"] = "identity"

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "temperature", "num_hidden_layers")
        require_one_of(self, "hidden_projection", ("identity", "learned"))
        if not 0 <= self.weight <= 1:
            raise NirvanaError(f"weight must be between 0 and 1, got {self.weight}.")
        if self.hidden_weight < 0:
            raise NirvanaError(f"hidden_weight must be 0 or more, got {self.hidden_weight}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Train low-rank additions to the linear maps instead of the weights (Hu et al. 2021).

        prune:
          scoring: {saliency: obs}
          recovery:
            lora: {rank: 8, alpha: 16.0}

    Attributes:
        rank: Rank of each adapter.
        alpha: Each adapter is scaled by alpha / rank.
        dropout: Dropout of an adapter's input.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "rank", "alpha")
        if not 0 <= self.dropout < 1:
            raise NirvanaError(f"dropout must be at least 0 and below 1, got {self.dropout}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """Set the training of a model after it was cut.

        prune:
          scoring: {saliency: obs}
          recovery: {num_epochs: 1, learning_rate: 2.0e-4}

    Attributes:
        num_epochs: Passes over the training rows.
        max_steps: Number of steps, in place of num_epochs.
        learning_rate: Peak learning rate, followed by linear decay. LoRA needs about ten times as
            much.
        batch_size: Rows per step.
        lora: Train low-rank adapters (LoRA); by default all weights are trained.
        seed: Random seed of row order and dropout.
        bf16: Train in bf16; by default if the hardware supports it.
        save_steps: Steps between resumable checkpoints.
        report_to: Where losses are also logged: none, tensorboard, ...
    """

    num_epochs: float = 1.0
    max_steps: int | None = None
    learning_rate: float = 2e-4
    batch_size: int = 32
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    lora: LoraConfig | None = None
    seed: int = 0
    bf16: bool | None = None
    save_steps: int = 40
    report_to: str = "none"

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "num_epochs", "learning_rate", "batch_size", "save_steps")
        if self.max_steps is not None and self.max_steps < 1:
            raise NirvanaError(f"max_steps must be 1 or more, got {self.max_steps}.")
