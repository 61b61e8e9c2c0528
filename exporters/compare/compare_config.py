"""How two artifacts are compared, and what difference is accepted. No torch, no onnx here."""

from dataclasses import dataclass, field

from exporters.export_config import GRAPH_PRECISIONS, GraphPrecision
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Set the gates, and how long a cache is followed."""

    precision: GraphPrecision | None = field(
        default=None,
        metadata={
            "help": "Precision whose tolerances apply. By default the coarser of the two "
            "artifacts' precisions."
        },
    )
    tolerance: float | None = field(
        default=None,
        metadata={"help": "Largest difference of each output, over the output's own scale."},
    )
    max_kl: float | None = field(
        default=None,
        metadata={"help": "Largest mean KL divergence of the logits of a case, in nats."},
    )
    min_agreement: float | None = field(
        default=None, metadata={"help": "Smallest fraction of equal predictions."}
    )
    num_steps: int = field(
        default=3, metadata={"help": "Decode steps with a cache; each side uses its own cache."}
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Largest number of tokens per row. By default that of the model's config."
        },
    )
    seed: int = field(default=0, metadata={"help": "Random seed of the inputs."})

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.precision is not None and self.precision not in GRAPH_PRECISIONS:
            raise NirvanaError(
                f"precision must be one of {', '.join(GRAPH_PRECISIONS)}, got {self.precision!r}."
            )
        if self.tolerance is not None and not self.tolerance > 0:
            raise NirvanaError(f"tolerance must be above 0, got {self.tolerance}.")
        if self.max_kl is not None and not self.max_kl > 0:
            raise NirvanaError(f"max_kl must be above 0, got {self.max_kl}.")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise NirvanaError(f"min_agreement must be from 0 to 1, got {self.min_agreement}.")
        if self.num_steps < 0:
            raise NirvanaError(f"num_steps must be 0 or more, got {self.num_steps}.")
        if self.max_length is not None and self.max_length < 1:
            raise NirvanaError(f"max_length must be 1 or more, got {self.max_length}.")
