"""What a latency table is measured at, and how. No numpy and no run-time here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from profiles.targets.block_work import CallShape
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

ClockName = Literal["wall", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableConfig:
    """Set the shape of the call that is measured, and how."""

    batch: int = field(default=1, metadata={"help": "Rows per call."})
    length: int = field(default=128, metadata={"help": "Tokens per row; 1 for a decoding step."})
    past: int = field(default=0, metadata={"help": "Tokens in the cache before the call."})
    num_points: int = field(
        default=7, metadata={"help": "Number of widths at which each sub-block is measured."}
    )
    num_rounds: int = field(default=64, metadata={"help": "Samples per width."})
    num_threads: int | None = field(
        default=None,
        metadata={"help": "Threads per operator; by default the CPUs that this process may use."},
    )
    clock: ClockName = field(
        default="wall",
        metadata={"help": "Clock: wall time, or, with one thread, the CPU time of this process."},
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        CallShape(batch=self.batch, length=self.length, past=self.past)
        if self.num_points < 2 or self.num_rounds < 3:
            raise NirvanaError(
                "A latency table needs num_points of 2 or more and num_rounds of 3 or more, got "
                f"{self.num_points} and {self.num_rounds}."
            )
        if self.clock not in get_args(ClockName):
            raise NirvanaError(f"clock must be wall or cpu, got {self.clock!r}.")
        if self.clock == "cpu" and self.num_threads != 1:
            raise NirvanaError(
                "clock=cpu adds up what all threads take, which is no latency; set num_threads=1."
            )

    @property
    def call(self) -> CallShape:
        """The shape of the call."""
        return CallShape(batch=self.batch, length=self.length, past=self.past)
