"""How the dense baseline is fine-tuned before anything is cut."""

from dataclasses import dataclass, field

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineConfig:
    """Set the fine-tuning of the dense model."""

    num_epochs: float = field(default=3.0, metadata={"help": "Passes over the training rows."})
    learning_rate: float = field(
        default=2e-4, metadata={"help": "Peak learning rate, followed by linear decay."}
    )
    batch_size: int = field(default=32, metadata={"help": "Rows per step."})
    seed: int = field(
        default=0, metadata={"help": "Random seed of the classification head and of the row order."}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Train in bf16; by default if the hardware supports it."}
    )
    save_steps: int = field(default=40, metadata={"help": "Steps between resumable checkpoints."})
    report_to: str = field(
        default="none", metadata={"help": "Where losses are also logged: none, tensorboard, ..."}
    )

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
