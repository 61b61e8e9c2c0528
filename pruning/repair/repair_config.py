"""How what stays is adjusted to what goes, without training. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastSquares:
    """Fit the kept columns of each output projection anew, block after block."""

    damping: float = field(
        default=1e-2,
        metadata={
            "help": "Pull towards the dense weights, as a fraction of the inputs' mean square."
        },
    )
    corrects_residual: bool = field(
        default=True,
        metadata={
            "help": "Also correct the error of the preceding blocks, in models whose blocks add "
            "to a residual stream."
        },
    )

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
