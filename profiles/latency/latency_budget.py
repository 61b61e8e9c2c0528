"""Turns a budget in milliseconds, or a speed-up, into the fraction that allocations take."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pruning.allocation.constraints import Constraints, describe_constraints
from pruning.allocation.levels import least_cost
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.plans.cost import CostModel, dense_cost
from pruning.plans.dense_dims import DenseDims

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
