"""A budget in milliseconds as a recipe has it: what is asked, and of which machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from profiles.latency.latency_budget import LatencyBudget, parse_latency
from profiles.latency.table_config import TableConfig
from profiles.targets.target import load_target
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

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
