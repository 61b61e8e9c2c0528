"""How two artifacts are compared, and what difference is accepted. No torch, no onnx here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from exporters.export_config import GRAPH_PRECISIONS, GraphPrecision
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Set the gates, and how long a cache is followed.

        precision: fp16     # flags of `nirvana verify`: --precision fp16 --max-kl 0.01
        max_kl: 0.01

    Attributes:
        precision: Precision whose tolerances apply. By default the coarser of the two artifacts'
            precisions.
        tolerance: Largest difference of each output, over the output's own scale.
        max_kl: Largest mean KL divergence of the logits of a case, in nats.
        min_agreement: Smallest fraction of equal predictions.
        num_steps: Decode steps with a cache; each side uses its own cache.
        max_length: Largest number of tokens per row. By default that of the model's config.
        seed: Random seed of the inputs.
    """

    precision: GraphPrecision | None = None
    tolerance: float | None = None
    max_kl: float | None = None
    min_agreement: float | None = None
    num_steps: int = 3
    max_length: int | None = None
    seed: int = 0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What is accepted.

    Attributes:
        tolerance: largest difference of each output and each tensor of a cache, over its own scale
            in the source; see `exporters.compare.difference`.
        max_kl: largest mean divergence of the logits of one output in one case, in nats.
        min_agreement: least fraction of equal predictions of each output, over all cases.
    """

    precision: GraphPrecision
    tolerance: float
    max_kl: float
    min_agreement: float

    @property
    def tie(self) -> float:
        """How near two logits are, scaled as the tolerance, for either to be the prediction."""
        return self.tolerance / 10

    @property
    def smallest_scale(self) -> float:
        """Outputs whose values are all smaller than this are compared on this scale."""
        return _SMALLEST_SCALES[self.precision]

    @property
    def outlier_share(self) -> float:
        """How small a share of an output's largest value its other values are compared on."""
        return _OUTLIER_SHARES[self.precision]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


# fp16 has 11 bits of mantissa, bf16 has 8: their errors are 8 times apart. Eight-bit integers round
# each row of a weight to a 127th of its largest value; what that does to the logits depends on the
# model, so that these gates find a broken graph rather than a bad quantization, which is for the
# task's own metric to judge.
_GATES: dict[GraphPrecision, Gates] = {
    "fp32": Gates(precision="fp32", tolerance=1e-4, max_kl=1e-6, min_agreement=1.0),
    "fp16": Gates(precision="fp16", tolerance=2e-2, max_kl=1e-3, min_agreement=0.97),
    "bf16": Gates(precision="bf16", tolerance=1.5e-1, max_kl=2e-2, min_agreement=0.9),
    "int8": Gates(precision="int8", tolerance=0.5, max_kl=0.1, min_agreement=0.8),
    "int8-static": Gates(precision="int8-static", tolerance=0.7, max_kl=0.2, min_agreement=0.7),
}
# What is left of sums of numbers around 1 that cancel: some roundings of these.
_SMALLEST_SCALES: dict[GraphPrecision, float] = {
    "fp32": 1e-3,
    "fp16": 0.05,
    "bf16": 0.05,
    "int8": 0.1,
    "int8-static": 0.1,
}
# Times the tolerance, this is about eight roundings of the largest value.
_OUTLIER_SHARES: dict[GraphPrecision, float] = {
    "fp32": 0.01,
    "fp16": 0.2,
    "bf16": 0.2,
    "int8": 1.0,
    "int8-static": 1.0,
}
_COARSENESS = tuple(_GATES)


def choose_gates(precisions: Iterable[GraphPrecision], config: CompareConfig) -> Gates:
    """Return the gates of the coarsest format, or of the one in `config`, with its overrides."""
    found = sorted(precisions, key=_COARSENESS.index)
    chosen = found[-1] if config.precision is None else config.precision
    default = _GATES[chosen]
    overrides = {
        name: getattr(config, name)
        for name in ("tolerance", "max_kl", "min_agreement")
        if getattr(config, name) is not None
    }
    return Gates(**{**asdict(default), **overrides})
