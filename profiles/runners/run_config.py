"""How a model is run, and on what call. No numpy and no run-time here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.errors import NirvanaError

TorchMode = Literal["eager", "sdpa", "compile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Set the call, and the run-time of each kind of artefact."""

    length: int = field(default=128, metadata={"help": "tokens a row; 1 for a decoding step"})
    past: int = field(default=0, metadata={"help": "tokens in a decoder's cache before the call"})
    num_threads: int | None = field(
        default=None, metadata={"help": "threads of an operator; unset: the CPUs allowed here"}
    )
    vocab_size: int = field(
        default=1000, metadata={"help": "token ids are drawn below this; at most the model's"}
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

    @property
    def num_positions(self) -> int:
        """Positions that a call takes up: of its own tokens and of those in a cache before it."""
        return self.length + self.past

    def check_run(self) -> None:
        """Raise NirvanaError for a setting that makes no sense."""
        self.require_at_least(1, "length", "vocab_size")
        self.require_at_least(0, "past", "seed")
        if self.num_threads is not None:
            self.require_at_least(1, "num_threads")
        if self.torch_mode not in get_args(TorchMode):
            raise NirvanaError(
                f"torch_mode must be one of {', '.join(get_args(TorchMode))}, "
                f"got {self.torch_mode!r}."
            )

    def require_at_least(self, floor: int, *names: str) -> None:
        """Raise NirvanaError for the first of the settings `names` that is below `floor`."""
        for name in names:
            if not getattr(self, name) >= floor:
                raise NirvanaError(f"{name} must be {floor} or more, got {getattr(self, name)}.")

    def require_counts(self, *names: str) -> None:
        """Raise NirvanaError for a list of which a number is below 1, or there twice."""
        for name in names:
            counts = getattr(self, name)
            if min(counts, default=1) < 1 or len(set(counts)) < len(counts):
                raise NirvanaError(
                    f"{name} must be 1 or more and differ from each other, got "
                    f"{', '.join(map(str, counts))}."
                )
