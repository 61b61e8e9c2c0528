"""A budget in milliseconds as a recipe has it: what is asked, and of which machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from profiles.targets.block_work import CallShape
from profiles.targets.target import load_target
from pruning.allocation.constraints import Constraints, describe_constraints
from pruning.allocation.levels import least_cost
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.plans.cost import CostModel, dense_cost
from pruning.plans.dense_dims import DenseDims

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_LATENCY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBudget:
    """What is asked of the whole model on its target.

    Exactly one of the two is given.
    """

    latency_ms: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if (self.latency_ms is None) == (self.speedup is None):
            raise NirvanaError("Give a latency or a speed-up, one of the two.")
        if self.latency_ms is not None and not self.latency_ms > 0:
            raise NirvanaError(f"A latency must be above 0 ms, got {self.latency_ms:g}.")
        if self.speedup is not None and not self.speedup >= 1:
            raise NirvanaError(f"A speed-up must be 1 or more, got {self.speedup:g}.")

    def asked_ms(self, dense_ms: float) -> float:
        """Return the latency that is asked, of a model whose dense form takes `dense_ms`."""
        if self.latency_ms is not None:
            return self.latency_ms
        assert self.speedup is not None
        return dense_ms / self.speedup


def parse_latency(text: str) -> float:
    """Return milliseconds of a text such as "12.5ms", "800us" or "0.2s".

    Raises:
        NirvanaError: it is none; the unit has to be there.
    """
    found = _LATENCY.fullmatch(text.strip().lower())
    if found is None:
        raise NirvanaError(
            f"Expected a latency with its unit, such as 12.5ms, 800us or 0.2s, got {text!r}."
        )
    return float(found[1]) * _UNITS_MS[found[2]]


def find_fraction(
    cost: CostModel,
    dense_ms: float,
    dims: DenseDims,
    budget: LatencyBudget,
    constraints: Constraints,
) -> float:
    """Return the fraction of the blocks' latency to keep, so that the model meets the budget.

    What is no block (embeddings, heads) keeps its latency. 1 where the dense model is fast enough.

    Args:
        cost: prices blocks in nanoseconds.
        dense_ms: of the whole dense model.

    Raises:
        NirvanaError: the budget cannot be reached; the message has the least that can.
    """
    dense_ns, asked_ms = dense_cost(dims, cost), budget.asked_ms(dense_ms)
    least_ms = dense_ms - (dense_ns - least_cost(dims, cost, constraints)) / 1e6
    if asked_ms < least_ms:
        raise NirvanaError(
            f"A latency of {asked_ms:.4g} ms cannot be reached: "
            f"{describe_constraints(constraints)} and what is not pruned (embeddings, norms, "
            f"heads) leave at least {least_ms:.4g} ms of the dense model's {dense_ms:.4g} "
            "ms. Raise the budget, or loosen the constraints."
        )
    allowed_ns = dense_ns - (dense_ms - asked_ms) * 1e6
    # Rounded down, so that the budget is kept; a fraction of 12 digits is far below a nanosecond.
    return min(1.0, int(allowed_ns / dense_ns * 1e12) / 1e12)


ClockName = Literal["wall", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableConfig:
    """Set the shape of the call that is measured, and how.

        latency:
          speedup: 2.0
          table: {batch: 1, length: 128, num_rounds: 64}

    Attributes:
        batch: Rows per call.
        length: Tokens per row; 1 for a decoding step.
        past: Tokens in the cache before the call.
        num_points: Number of widths at which each sub-block is measured.
        num_rounds: Samples per width.
        num_threads: Threads per operator; by default the CPUs that this process may use.
        clock: Clock: wall time, or, with one thread, the CPU time of this process.
    """

    batch: int = 1
    length: int = 128
    past: int = 0
    num_points: int = 7
    num_rounds: int = 64
    num_threads: int | None = None
    clock: ClockName = "wall"

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
    """Set what the whole model may take on a target, in place of a fraction to keep.

        latency:
          at_most: 12.5ms   # or speedup: 2.0; in place of prune.budget
          target: cpu

    Attributes:
        at_most: Largest latency, with its unit: 12.5ms, 800us, 0.2s.
        speedup: Smallest ratio of the dense over the pruned latency.
        target: Target: cpu (this machine, measured on exported blocks in ONNX Runtime), or a name
            of `nirvana targets` (estimated, nothing is run).
        precision: Precision of an estimate: fp32, tf32, fp16 (its default), bf16, int8.
    """

    at_most: str | None = None
    speedup: float | None = None
    target: str = CPU
    precision: str | None = None
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
