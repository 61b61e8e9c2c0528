"""Milliseconds by what a sub-block keeps, on one target: a cost model for budgets in milliseconds.

A few widths are measured; between them the latency is interpolated, and never falls as more is
kept. A width that costs no less than a wider one is then no choice for an allocation: the wider
one is taken (see `list_items`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pruning.errors import NirvanaError
from pruning.plans.cost import dense_cost, plan_cost
from pruning.plans.dense_dims import StackDims, require_keys
from pruning.plans.plan import PruningPlan
from pruning.strict_json import convert_json, read_value
from pruning.write_aside import write_json

TABLE_FORMAT = "nirvana-latency-table-1"
_LONGEST_MS = 1e9  # eleven days
_NANOSECONDS_A_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyCurve:
    """The latency of one kind of sub-block by the units that it keeps.

    Attributes:
        kept: ascending, from 0 to all.
        latency_ms: beyond that of a block without the sub-block; not falling.
    """

    kept: tuple[int, ...]
    latency_ms: tuple[float, ...]

    @classmethod
    def fit(cls, kept: Sequence[int], latency_ms: Sequence[float]) -> LatencyCurve:
        """Return the curve next to measurements (least squares) that never falls.

        `kept` ascends from 0, whose latency is 0 by definition.
        """
        rising = [max(value, 0.0) for value in _pool_adjacent_violators(latency_ms[1:])]
        return cls(kept=tuple(kept), latency_ms=(0.0, *rising))

    def at(self, num_units: float) -> float:
        """Return the latency at a number of units, linear between those measured.

        Raises:
            NirvanaError: more units than the dense sub-block has.
        """
        if not 0 <= num_units <= self.kept[-1]:
            raise NirvanaError(
                f"The latency table covers 0 to {self.kept[-1]} units, got {num_units:g}. It was "
                "measured for another model."
            )
        return float(np.interp(num_units, self.kept, self.latency_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """What was measured of a model on a target, for one shape of call.

    Attributes:
        attention: by kept KV groups, each with all its query heads.
        mlp: by kept neurons.
        block_ms: of a block whose sub-blocks are empty.
        dense_ms: of the whole dense model, measured in turns with its parts.
        rest_ms: of what it computes before and after its blocks.
        measured: where, how and when: plain data.
    """

    stack: StackDims
    attention: LatencyCurve
    mlp: LatencyCurve
    block_ms: float
    dense_ms: float
    rest_ms: float
    measured: Mapping[str, object]
    name: str = "nanoseconds"

    @property
    def in_place(self) -> float:
        """How long blocks take within the dense model, over how long each alone; about 1.

        Alone, a block finds its inputs and weights in other caches than in the run of a model.
        """
        alone = self.block_ms + self.attention.latency_ms[-1] + self.mlp.latency_ms[-1]
        return (self.dense_ms - self.rest_ms) / (alone * self.stack.num_layers)

    def attention_cost(self, dims: StackDims, num_heads: int, num_kv_heads: int) -> int:
        """Return nanoseconds; a group that keeps some of its query heads counts in part."""
        self._check(dims)
        groups = max(num_heads / dims.heads_per_group, 0.0)
        return self._price(self.attention.at(groups))

    def mlp_cost(self, dims: StackDims, num_neurons: int) -> int:
        """Return nanoseconds."""
        self._check(dims)
        return self._price(self.mlp.at(num_neurons))

    def block_cost(self, dims: StackDims) -> int:
        """Return the nanoseconds of an empty block."""
        self._check(dims)
        return self._price(self.block_ms)

    def predict_ms(self, plan: PruningPlan) -> float:
        """Return the latency of the whole model under a plan: the dense one's, less what is cut."""
        cut = dense_cost(plan.dims, self) - plan_cost(plan, self)
        return self.dense_ms - cut / _NANOSECONDS_A_MS

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        plain: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return {"format": TABLE_FORMAT, **plain}

    @classmethod
    def from_json(cls, data: Any) -> LatencyTable:
        """Read a table from JSON values.

        Raises:
            NirvanaError: it is none of this version.
        """
        came = data.get("format") if isinstance(data, dict) else type(data).__name__
        if came != TABLE_FORMAT:
            raise NirvanaError(
                f"Expected a latency table ({TABLE_FORMAT}), got {came!r}. Measure it again."
            )
        require_keys(data, {"format"} | {f.name for f in fields(cls)}, "The latency table")
        StackDims.from_json(data["stack"])
        stack = {**data["stack"], "sizes": {"first_block_lacks": 0, **data["stack"]["sizes"]}}
        table = convert_json(
            {**data, "stack": stack}, cls, name="The latency table", remedy="Measure it again."
        )
        table._check_latencies()
        return table

    def save(self, path: Path) -> None:
        """Write the table as JSON; a reader finds the old file or the new one."""
        write_json(path, self.to_json(), indent=1)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table from a file.

        Raises:
            NirvanaError: there is none, or it is damaged.
        """
        if not path.is_file():
            raise NirvanaError(f"Expected a latency table at {path}, found no file there.")
        return cls.from_json(read_value(path, remedy="Measure it again."))

    def _check_latencies(self) -> None:
        """Raise NirvanaError for what no measurement gives: a latency that falls or is negative."""
        units = {"attention": self.stack.num_kv_heads, "mlp": self.stack.intermediate_size}
        for name, num_units in units.items():
            curve: LatencyCurve = getattr(self, name)
            rises = all(a < b for a, b in pairwise(curve.kept))
            falls = any(a > b for a, b in pairwise(curve.latency_ms))
            spans = curve.kept[:1] == (0,) and curve.kept[-1:] == (num_units,)
            if len(curve.kept) != len(curve.latency_ms) or not rises or falls or not spans:
                raise NirvanaError(
                    f"The latency table's {name} should rise from 0 to {num_units} kept units, "
                    "each with a latency that does not fall. Measure it again."
                )
        alone = self.block_ms + self.attention.latency_ms[-1] + self.mlp.latency_ms[-1]
        least = min(self.block_ms, self.rest_ms, *self.attention.latency_ms, *self.mlp.latency_ms)
        if least < 0 or alone <= 0 or self.dense_ms <= self.rest_ms:
            raise NirvanaError(
                "The latency table should have no negative latency, blocks that take some time, "
                f"and less before and after them ({self.rest_ms:g} ms) than in the whole model "
                f"({self.dense_ms:g} ms). Measure it again."
            )
        largest = max(self.dense_ms, *self.attention.latency_ms, *self.mlp.latency_ms)
        if not (largest < _LONGEST_MS and abs(self.in_place) < _LONGEST_MS):
            raise NirvanaError(
                f"The latency table has a latency of {largest:g} ms and the factor in_place "
                f"{self.in_place:g}; at most {_LONGEST_MS:g} is expected. Measure it again."
            )

    def _price(self, alone_ms: float) -> int:
        return round(self.in_place * alone_ms * _NANOSECONDS_A_MS)

    def _check(self, dims: StackDims) -> None:
        """Blocks of one stack share a table; the first may lack a norm, which counts little."""
        for name in ("hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size"):
            expected, came = getattr(self.stack, name), getattr(dims, name)
            if expected != came:
                raise NirvanaError(
                    f"The latency table was measured for {name} {expected}, the model has {came}. "
                    "Measure one for this model."
                )


def _pool_adjacent_violators(values: Sequence[float]) -> list[float]:
    """Return the nearest sequence (least squares) that does not fall."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (left, num_left), (right, num_right) = pools[-2:]
            merged = (left * num_left + right * num_right) / (num_left + num_right)
            pools[-2:] = [(merged, num_left + num_right)]
    return [value for value, count in pools for _ in range(count)]
