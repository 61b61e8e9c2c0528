"""How the dense model teaches the pruned one. No torch here."""

from dataclasses import dataclass, field
from typing import Literal

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.training.baseline_config import require_one_of, require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """Teach the pruned model with the fine-tuned dense one."""

    weight: float = field(
        default=0.9,
        metadata={
            "help": "Weight of the distillation loss in the sum of both losses; 0 turns it off."
        },
    )
    temperature: float = field(
        default=2.0, metadata={"help": "Temperature that softens both distributions."}
    )
    hidden_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the hidden states' relative error; 0 turns it off."},
    )
    num_hidden_layers: int = field(
        default=4,
        metadata={"help": "Number of layers of the teacher whose hidden states are matched."},
    )
    hidden_projection: Literal["identity", "learned"] = field(
        default="identity",
        metadata={"help": "Map from the pruned model's hidden states to the teacher's."},
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "temperature", "num_hidden_layers")
        require_one_of(self, "hidden_projection", ("identity", "learned"))
        if not 0 <= self.weight <= 1:
            raise NirvanaError(f"weight must be between 0 and 1, got {self.weight}.")
        if self.hidden_weight < 0:
            raise NirvanaError(f"hidden_weight must be 0 or more, got {self.hidden_weight}.")
