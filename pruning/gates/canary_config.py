"""When pruning has gone too far to go on. No torch here."""

from dataclasses import dataclass, field

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryConfig:
    """Stop and roll back when the held-out loss rises by more than both limits in one stage.

    The loss that it is compared with is that of the last good stage; before the first, of the first
    step. A loss that is no number is always too much.
    """

    max_loss_factor: float = field(
        default=4.0,
        metadata={"help": "Largest factor by which the held-out loss may rise in a stage."},
    )
    max_loss_rise: float = field(
        default=2.0,
        metadata={"help": "Rise of the held-out loss that is always accepted."},
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.max_loss_factor < 1:
            raise NirvanaError(f"max_loss_factor must be 1 or more, got {self.max_loss_factor}.")
        if self.max_loss_rise < 0:
            raise NirvanaError(f"max_loss_rise must be 0 or more, got {self.max_loss_rise}.")
