"""How a model is run, and on what call. No numpy and no run-time here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.errors import NirvanaError

TorchMode = Literal["eager", "sdpa", "compile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Set the call, and the run-time of each kind of artifact."""

    length: int = field(default=128, metadata={"help": "Tokens per row; 1 for a decoding step."})
    past: int = field(default=0, metadata={"help": "Tokens in a decoder's cache before the call."})
    num_threads: int | None = field(
        default=None,
        metadata={"help": "Threads per operator; by default the CPUs that this process may use."},
    )
    vocab_size: int = field(
        default=1000,
        metadata={
            "help": "Token ids are drawn below this number; at most the model's vocabulary is used."
        },
    )
    torch_mode: TorchMode = field(
        default="sdpa",
        metadata={"help": "How a checkpoint is run: its attention implementation, or compiled."},
    )
    provider: str = field(
        default="cpu",
        metadata={
            "help": "Execution provider of ONNX Runtime: cpu, cuda, tensorrt, tensorrt-rtx, or a "
            "full name."
        },
    )
    provider_options: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Options of the execution provider as name=value; unknown ones are refused."
        },
    )
    provider_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which the execution provider keeps what it compiles; by default "
            "nothing is kept."
        },
    )
    cuda_graph: bool = field(
        default=False,
        metadata={"help": "For engines: capture a run as a CUDA graph and launch that."},
    )
    seed: int = field(
        default=0, metadata={"help": "Random seed of token ids, order of runs and resampling."}
    )

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
