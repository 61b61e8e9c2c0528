"""How units are scored, once for any number of budgets. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pruning.allocation.allocation_config import Allocation, KlKnapsack
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.training.baseline_config import require_one_of, require_positive

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """Set what a scoring run measures."""

    saliency: str = field(
        default="obs",
        metadata={
            "help": "Saliency: obs, nirvana, fisher, taylor, flap, magnitude, or your own by its "
            "import path, package.module:Name."
        },
    )
    allocation: Allocation = field(
        default_factory=KlKnapsack,
        metadata={"help": "How a budget is shared between the sub-blocks."},
    )
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata={
            "help": "Data type of the weights while scoring and pruning; auto: as they are stored."
        },
    )
    damping: float = field(
        default=1e-2,
        metadata={"help": "Damping of the repair at each point of a damage curve (see repair)."},
    )
    draw_budget: float = field(
        default=0.5,
        metadata={
            "help": "Kept fraction of the parameters at which calibration draws are compared."
        },
    )

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
