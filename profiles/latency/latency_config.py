"""A budget in milliseconds as a recipe has it: what is asked, and of which machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from profiles.latency.latency_budget import LatencyBudget, parse_latency
from profiles.targets.block_work import CallShape
from profiles.targets.target import load_target
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyConfig:
    """Set what the whole model may take on a target, in place of a fraction to keep."""

    at_most: str | None = field(
        default=None, metadata={"help": "Largest latency, with its unit: 12.5ms, 800us, 0.2s."}
    )
    speedup: float | None = field(
        default=None, metadata={"help": "Smallest ratio of the dense over the pruned latency."}
    )
    target: str = field(
        default=CPU,
        metadata={
            "help": "Target: cpu (this machine, measured on exported blocks in ONNX Runtime), or "
            "a name of `nirvana targets` (estimated, nothing is run)."
        },
    )
    precision: str | None = field(
        default=None,
        metadata={"help": "Precision of an estimate: fp32, tf32, fp16 (its default), bf16, int8."},
    )
    table: TableConfig = field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        check_numbers(self)
        _ = self.budget  # says what is wrong with it
        if self.is_measured and self.precision not in (None, "fp32"):
            raise NirvanaError(
                f"Tables are measured in fp32 on the CPU, got {self.precision!r}. Leave precision "
                "out, or name the target that is to be estimated."
            )
        if not self.is_measured:  # now, not when the baseline has been trained
            load_target(self.target).rate(self.chosen_precision)

    def check(self, model: PreTrainedModel) -> None:
        """Raise NirvanaError for a model of which no table is measured."""
        if self.is_measured and model.config.is_encoder_decoder:
            raise NirvanaError(
                "no table is measured for encoder-decoders, this is a "
                f"{model.config.model_type}. Leave latency out and set a budget."
            )

    @property
    def budget(self) -> LatencyBudget:
        """What is asked, in numbers."""
        latency_ms = None if self.at_most is None else parse_latency(self.at_most)
        return LatencyBudget(latency_ms=latency_ms, speedup=self.speedup)

    @property
    def is_measured(self) -> bool:
        """Whether a table is measured, here; other targets are estimated."""
        return self.target == CPU

    @property
    def chosen_precision(self) -> str:
        """The precision that prices are of."""
        return self.precision or ("fp32" if self.is_measured else "fp16")
