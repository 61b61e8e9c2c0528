"""How a model that is smaller already is trained again. No torch here."""

from dataclasses import dataclass, field

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.training.baseline_config import require_positive
from pruning.training.distillation_config import DistillationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Train low-rank additions to the linear maps instead of the weights (Hu et al. 2021)."""

    rank: int = field(default=8, metadata={"help": "Rank of each adapter."})
    alpha: float = field(default=16.0, metadata={"help": "Each adapter is scaled by alpha / rank."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of an adapter's input."})

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "rank", "alpha")
        if not 0 <= self.dropout < 1:
            raise NirvanaError(f"dropout must be at least 0 and below 1, got {self.dropout}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """Set the training of a model after it was cut."""

    num_epochs: float = field(default=1.0, metadata={"help": "Passes over the training rows."})
    max_steps: int | None = field(
        default=None, metadata={"help": "Number of steps, in place of num_epochs."}
    )
    learning_rate: float = field(
        default=2e-4,
        metadata={
            "help": "Peak learning rate, followed by linear decay. LoRA needs about ten times as "
            "much."
        },
    )
    batch_size: int = field(default=32, metadata={"help": "Rows per step."})
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    lora: LoraConfig | None = field(
        default=None,
        metadata={"help": "Train low-rank adapters (LoRA); by default all weights are trained."},
    )
    seed: int = field(default=0, metadata={"help": "Random seed of row order and dropout."})
    bf16: bool | None = field(
        default=None, metadata={"help": "Train in bf16; by default if the hardware supports it."}
    )
    save_steps: int = field(default=40, metadata={"help": "Steps between resumable checkpoints."})
    report_to: str = field(
        default="none", metadata={"help": "Where losses are also logged: none, tensorboard, ..."}
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "num_epochs", "learning_rate", "batch_size", "save_steps")
        if self.max_steps is not None and self.max_steps < 1:
            raise NirvanaError(f"max_steps must be 1 or more, got {self.max_steps}.")
