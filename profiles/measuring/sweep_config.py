"""What a sweep measures. No numpy and no run-time here."""

from dataclasses import dataclass, field

from pruning.errors import NirvanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """Set the batch sizes, the callers at a time, and how often each is measured."""

    batch_sizes: tuple[int, ...] = field(
        default=(1, 2, 4, 8, 16), metadata={"help": "rows a request, all measured in turns"}
    )
    callers: tuple[int, ...] = field(
        default=(1, 2, 4), metadata={"help": "callers at a time, one row each; none: []"}
    )
    length: int = field(default=128, metadata={"help": "tokens a row; 1 for a decoding step"})
    past: int = field(default=0, metadata={"help": "tokens in a decoder's cache before the call"})
    num_rounds: int = field(default=32, metadata={"help": "samples a batch size"})
    num_requests: int = field(default=32, metadata={"help": "requests of each caller"})
    num_threads: int | None = field(
        default=None, metadata={"help": "threads of an operator; unset: the CPUs allowed here"}
    )
    vocab_size: int = field(
        default=1000, metadata={"help": "token ids are drawn below this; at most the model's"}
    )
    seed: int = field(default=0, metadata={"help": "of the token ids"})

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "callers"):
            counts = getattr(self, name)
            if min(counts, default=1) < 1 or len(set(counts)) < len(counts):
                raise NirvanaError(
                    f"{name} must be 1 or more and differ from each other, got "
                    f"{', '.join(map(str, counts))}."
                )
        if not self.batch_sizes and not self.callers:
            raise NirvanaError("A sweep needs batch_sizes or callers, got neither.")
        floors = {"length": 1, "past": 0, "num_rounds": 1, "num_requests": 1, "vocab_size": 1}
        for name, floor in {**floors, "seed": 0, "num_threads": 1}.items():
            value = getattr(self, name)
            if value is not None and value < floor:
                raise NirvanaError(f"{name} must be {floor} or more, got {value}.")
