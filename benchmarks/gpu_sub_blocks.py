"""Latency of single sub-blocks by kept units, and what their sum says of whole models.

A sub-block is timed as a chain of copies, as many as the model has layers, in one CUDA graph: each
with weights of its own, since a model's do not stay in the GPU's cache from layer to layer.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from gpu_calls import Step, capture, make_ids, make_module
from gpu_models import Shape, cut, find_shape, make_dense, make_plan
from gpu_record import PartRecord
from gpu_timing import REHEARSAL, TIMING, compare_calls
from torch import nn
from transformers import PreTrainedModel

from pruning.cutting.repack import plan_for
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.sub_block import SubBlock

Case = tuple[int, int]
_SHAPE = "bert-base"
_CASES: tuple[Case, ...] = ((1, 128), (8, 128), (32, 128), (8, 512))
_PLANS = (("both", 25), ("both", 50), ("both", 75))
_UNIT_STEPS = 8
# A part, and its kept units.
Point = tuple[str, int]
# Milliseconds by point, for one case.
Table = dict[Point, float]


class AttentionChain(nn.Module):
    """Attentions one after the other, each with its residual and norm."""

    def __init__(self, block: nn.Module, length: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(copy.deepcopy(block.attention) for _ in range(length))

    def forward(self, hidden_BSD: torch.Tensor) -> torch.Tensor:
        """Return hidden states of the same shape."""
        for attention in self.attentions:
            hidden_BSD = attention(hidden_BSD, None)[0]
        return hidden_BSD


class MlpChain(nn.Module):
    """MLPs one after the other, each with its residual and norm."""

    def __init__(self, block: Any, length: int) -> None:
        super().__init__()
        self.intermediates = nn.ModuleList(copy.deepcopy(block.intermediate) for _ in range(length))
        self.outputs = nn.ModuleList(copy.deepcopy(block.output) for _ in range(length))

    def forward(self, hidden_BSD: torch.Tensor) -> torch.Tensor:
        """Return hidden states of the same shape."""
        for intermediate, output in zip(self.intermediates, self.outputs, strict=True):
            hidden_BSD = output(intermediate(hidden_BSD), hidden_BSD)
        return hidden_BSD


def measure_sub_blocks(record: PartRecord) -> None:
    """Add milliseconds by kept units for each case, and predictions of whole models by them."""
    shape = find_shape(_SHAPE, record.rehearse)
    dtype = shape.dtype if record.device == "cuda" else torch.float32
    dense = record.attempt(lambda: make_dense(shape, record.device, dtype), what="make dense")
    if dense is None:
        return
    record.state(model=_SHAPE, dtype=str(dtype), predictions=[])
    blocks = {
        point: record.attempt(lambda point=point: _cut_block(shape, dense, *point), point=point)
        for point in _list_points(shape)
    }
    for case in _CASES[:1] if record.rehearse else _CASES:
        table = _measure_table(record, shape, blocks, case)
        for kind, percent in _PLANS:
            what = {"batch": case[0], "length": case[1], "kind": kind, "percent": percent}
            found = record.attempt(
                lambda what=what, table=table, case=case: _predict(
                    record, dense, make_plan(dense, what["kind"], what["percent"]), case, table
                ),
                **what,
            )
            if found is not None:
                record.data["predictions"].append({**what, **found})
                record.write()
    _state_errors(record)


def _measure_table(record: PartRecord, shape: Shape, blocks: dict[Point, Any], case: Case) -> Table:
    """Return the milliseconds of one attention and one MLP by kept units."""
    table: Table = {}
    for point, block in blocks.items():
        part, num_units = point
        what = {"part": part, "kept_units": num_units, "batch": case[0], "length": case[1]}
        if block is None:
            continue
        ms = record.attempt(
            lambda part=part, block=block: _time_chain(record, shape, part, block, case),
            **what,
        )
        if ms is not None:
            table[point] = ms
            record.add(**what, ms=ms)
    return table


def _list_points(shape: Shape) -> list[Point]:
    """List the kept units that are timed: dense first, without which there is no prediction."""
    heads = sorted({1, *range(2, shape.heads + 1, 2)}, reverse=True)
    step = shape.neurons // _UNIT_STEPS
    neurons = range(shape.neurons, 0, -step)
    return [*(("attention", n) for n in heads), *(("mlp", n) for n in neurons)]


def _time_chain(record: PartRecord, shape: Shape, part: str, block: Any, case: Case) -> float:
    chain = (AttentionChain if part == "attention" else MlpChain)(block, shape.layers).eval()
    weight = next(chain.parameters())
    hidden_BSD = torch.randn(*case, shape.hidden, device=weight.device).to(weight.dtype)
    return _time(record, _graph(record, lambda: chain(hidden_BSD))) / shape.layers


def _cut_block(shape: Shape, dense: PreTrainedModel, part: str, num_units: int) -> Any:
    """Return a block whose attention or MLP keeps `num_units`: the first of a small cut model."""
    keeps = {
        "kept_heads": tuple(range(num_units if part == "attention" else shape.heads)),
        "kept_neurons": tuple(range(num_units if part == "mlp" else shape.neurons)),
    }
    rest = [LayerPlan(kept_heads=(0,), kept_neurons=(0,))] * (shape.layers - 1)
    pruned: Any = cut(dense, plan_for(dense, [LayerPlan(**keeps), *rest]))
    return pruned.bert.encoder.layer[0]


def _predict(
    record: PartRecord, dense: PreTrainedModel, plan: PruningPlan, case: Case, table: Table
) -> dict[str, Any]:
    """Hold the sum of a plan's sub-blocks, and what is left of the dense model, against the clock.

    Dense and pruned model are timed in turns, as CUDA graphs; the rest (embeddings, head, gaps) is
    the dense model's time less that of its sub-blocks.
    """
    config = REHEARSAL if record.rehearse else TIMING
    batch, length = case
    steps = []
    for model in (dense, cut(dense, plan)):
        module, ids = make_module(model, 0), make_ids(model, batch, length)
        steps.append(_graph(record, lambda module=module, ids=ids: module(ids)))
    timed = compare_calls(*steps, config)
    measured = timed.get("device") or timed["end_to_end"]
    whole = PruningPlan.dense(plan.dims, "")
    rest_ms = measured["dense_ms"] - _add_up(whole, table)
    predicted_ms = rest_ms + _add_up(plan, table)
    return {
        "rest_ms": rest_ms,
        "predicted_ms": predicted_ms,
        "measured_ms": measured["pruned_ms"],
        "dense_ms": measured["dense_ms"],
        "relative_error": predicted_ms / measured["pruned_ms"] - 1,
        "predicted_speedup": measured["dense_ms"] / predicted_ms,
        "measured_speedup": measured["speedup"],
    }


def _add_up(plan: PruningPlan, table: Table) -> float:
    total = 0.0
    for number, layer in enumerate(plan.layers):
        for part, count in (
            ("attention", layer.num_kept_heads),
            ("mlp", layer.num_kept_neurons),
        ):
            total += _look_up(table, part, count, SubBlock(number, part).name)
    return total


def _look_up(table: Table, part: str, count: int, name: str) -> float:
    """Return the time at `count` units, between its neighbours where it was not timed itself."""
    points = sorted((units, ms) for (kind, units), ms in table.items() if kind == part)
    below = [point for point in points if point[0] <= count]
    above = [point for point in points if point[0] >= count]
    if not below or not above:
        raise ValueError(f"{name} keeps {count} units; the table has {[p[0] for p in points]}")
    (low, low_ms), (high, high_ms) = below[-1], above[0]
    share = 0.0 if high == low else (count - low) / (high - low)
    return low_ms + share * (high_ms - low_ms)


def _graph(record: PartRecord, step: Step) -> Step:
    """Return the step as a CUDA graph, or on a CPU as it is."""
    if record.device == "cuda":
        return capture(step)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return step()

    return plain


def _time(record: PartRecord, step: Step) -> float:
    """Return the median milliseconds, on the device where there is one."""
    timed = compare_calls(step, step, REHEARSAL if record.rehearse else TIMING)
    figures = timed.get("device") or timed["end_to_end"]
    return (float(figures["dense_ms"]) + float(figures["pruned_ms"])) / 2


def _state_errors(record: PartRecord) -> None:
    errors = [abs(found["relative_error"]) for found in record.data["predictions"]]
    if errors:
        record.state(
            worst_relative_error=max(errors), mean_relative_error=sum(errors) / len(errors)
        )
