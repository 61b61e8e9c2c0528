"""What a sweep measures. No numpy and no run-time here."""

from dataclasses import dataclass, field

from profiles.runners.run_config import RunConfig
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig(RunConfig):
    """Set the batch sizes, the callers at a time, and how often each is measured."""

    batch_sizes: tuple[int, ...] = field(
        default=(1, 2, 4, 8, 16),
        metadata={"help": "Batch sizes to measure (rows per request), in turns."},
    )
    callers: tuple[int, ...] = field(
        default=(1, 2, 4),
        metadata={
            "help": "Numbers of concurrent callers to measure, one row per request; []: none."
        },
    )
    num_rounds: int = field(default=32, metadata={"help": "Samples per batch size."})
    num_requests: int = field(default=32, metadata={"help": "Requests per caller."})

    def __post_init__(self) -> None:
        check_numbers(self)
        self.check_run()
        self.require_counts("batch_sizes", "callers")
        self.require_at_least(1, "num_rounds", "num_requests")
        if not self.batch_sizes and not self.callers:
            raise NirvanaError("A sweep needs batch_sizes or callers, got neither.")
