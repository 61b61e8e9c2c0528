"""How latency is measured. No numpy and no run-time here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.errors import NirvanaError

TorchMode = Literal["eager", "sdpa", "compile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """Set the batch shapes, how long to measure, and with how many threads."""

    batch_sizes: tuple[int, ...] = field(
        default=(1, 8), metadata={"help": "rows a request, one measurement each"}
    )
    length: int = field(default=128, metadata={"help": "tokens a row; 1 for a decoding step"})
    past: int = field(default=0, metadata={"help": "tokens in a decoder's cache before the call"})
    warmup_seconds: float = field(
        default=1.0,
        metadata={"help": "shortest warm-up of a case; it goes on until the latency is steady"},
    )
    min_samples: int = field(
        default=64, metadata={"help": "samples a model and case; p90 is withheld below 64"}
    )
    min_seconds: float = field(default=3.0, metadata={"help": "shortest measurement of a case"})
    max_seconds: float = field(
        default=120.0, metadata={"help": "longest time of a case, warm-up included"}
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "threads of an operator; unset: the CPUs allowed here"}
    )
    vocab_size: int = field(
        default=1000, metadata={"help": "token ids are drawn below this; at most the model's"}
    )
    generate: int = field(
        default=0,
        metadata={
            "help": "tokens to generate after a prompt of `length`, for the time to the first and "
            "between them; 0: none"
        },
    )
    callers: tuple[int, ...] = field(
        default=(),
        metadata={"help": "callers at a time that each wait for an answer, a load each; none"},
    )
    rates_per_s: tuple[float, ...] = field(
        default=(), metadata={"help": "requests a second at random times, a load each; none"}
    )
    torch_mode: TorchMode = field(
        default="sdpa", metadata={"help": "how a checkpoint runs: attention, or compiled"}
    )
    provider: str = field(
        default="cpu",
        metadata={"help": "ONNX Runtime's: cpu, cuda, tensorrt, tensorrt-rtx, or a full name"},
    )
    provider_options: tuple[str, ...] = field(
        default=(), metadata={"help": "of the provider, name=value; one that it lacks is refused"}
    )
    provider_cache: str | None = field(
        default=None,
        metadata={"help": "folder in which the provider keeps what it compiles; unset: nowhere"},
    )
    cuda_graph: bool = field(
        default=False, metadata={"help": "engines: record a run once, launch it as a whole"}
    )
    seed: int = field(default=0, metadata={"help": "of token ids, order of runs and resampling"})

    def __post_init__(self) -> None:
        if not self.batch_sizes:
            raise NirvanaError("batch_sizes must name at least one batch size, got none.")
        if min(self.batch_sizes) < 1 or len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise NirvanaError(
                "batch_sizes must be 1 or more and differ from each other, got "
                f"{', '.join(map(str, self.batch_sizes))}."
            )
        self._require_at_least(1, "length", "min_samples", "vocab_size")
        self._require_at_least(0, "past", "warmup_seconds", "min_seconds", "seed", "generate")
        if self.torch_mode not in get_args(TorchMode):
            raise NirvanaError(
                f"torch_mode must be one of {', '.join(get_args(TorchMode))}, "
                f"got {self.torch_mode!r}."
            )
        if min(self.callers, default=1) < 1 or len(set(self.callers)) < len(self.callers):
            raise NirvanaError(
                "callers must be 1 or more and differ from each other, got "
                f"{', '.join(map(str, self.callers))}."
            )
        if not min(self.rates_per_s, default=1) > 0:
            raise NirvanaError(
                f"rates_per_s must be above 0, got {', '.join(map(str, self.rates_per_s))}."
            )
        if self.generate == 1:
            raise NirvanaError(
                "generate must be 0, or 2 tokens or more: with 1 there is nothing between tokens."
            )
        if self.num_threads is not None:
            self._require_at_least(1, "num_threads")
        if not self.max_seconds > self.warmup_seconds + self.min_seconds:
            raise NirvanaError(
                "max_seconds must be above warmup_seconds + min_seconds = "
                f"{self.warmup_seconds + self.min_seconds:g}, got {self.max_seconds:g}."
            )

    def _require_at_least(self, floor: int, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= floor:
                raise NirvanaError(f"{name} must be {floor} or more, got {getattr(self, name)}.")
