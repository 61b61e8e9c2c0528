"""Dense against pruned in torch, on one shape: its own forward, a CUDA graph, compiled."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from gpu_calls import MODES, Step, make_ids, make_module
from gpu_models import (
    VARIANTS,
    Shape,
    count_bytes,
    cut,
    find_kept_fractions,
    find_shape,
    list_kept,
    make_dense,
    make_plan,
)
from gpu_record import PartRecord
from gpu_timing import REHEARSAL, TIMING, compare_calls
from transformers import PreTrainedModel

Case = tuple[int, int, int]
# What inductor is given: it takes tens of seconds a model and shape.
_COMPILED = (("both", 50),)
_COMPILED_CASES = {"bert-base": ((8, 128, 0),), "llama-1b": ((1, 512, 0),)}


def compare_in_torch(record: PartRecord, name: str) -> None:
    """Time every variant of a shape against the dense model, in each case, as graph and eager."""
    shape = find_shape(name, record.rehearse)
    dense = _make(record, shape)
    if dense is None:
        return
    modes = ("cuda_graph", "eager") if record.device == "cuda" else ("eager",)
    dense_steps = dict(_bind_all(record, dense, "dense", shape.cases, modes))
    for kind, percent in VARIANTS:
        _compare_variant(record, dense, dense_steps, (kind, percent))
        _free()


def compare_compiled(record: PartRecord) -> None:
    """Time torch.compile of the dense model against that of the half."""
    for name, cases in _COMPILED_CASES.items():
        shape = find_shape(name, record.rehearse)
        dense = _make(record, shape)
        if dense is None:
            continue
        cases = shape.cases[-1:] if record.rehearse else cases
        dense_steps = dict(_bind_all(record, dense, "dense", cases, ("compile",)))
        for variant in _COMPILED:
            _compare_variant(record, dense, dense_steps, variant, shape=name)
        del dense, dense_steps
        torch.compiler.reset()
        _free()


def _make(record: PartRecord, shape: Shape) -> PreTrainedModel | None:
    dtype = shape.dtype if record.device == "cuda" else torch.float32
    started = time.monotonic()
    dense = record.attempt(lambda: make_dense(shape, record.device, dtype), what="make dense")
    if dense is not None:
        made = {
            "dtype": str(dtype),
            "attention": dense.config._attn_implementation,
            "bytes": count_bytes(dense),
            "make_seconds": round(time.monotonic() - started, 2),
        }
        record.state(models={**record.data.get("models", {}), shape.name: made})
    return dense


def _bind_all(
    record: PartRecord,
    model: PreTrainedModel,
    what: str,
    cases: Sequence[Case],
    modes: Sequence[str],
) -> Iterator[tuple[tuple[Case, str], Step]]:
    """Yield a step for each case and mode that can be run."""
    for case in cases:
        for mode in modes:
            step = record.attempt(
                lambda case=case, mode=mode: _bind(model, case, mode),
                model=what,
                case=describe_case(case),
                mode=mode,
            )
            if step is not None:
                yield (case, mode), step


def _bind(model: PreTrainedModel, case: Case, mode: str) -> Step:
    batch, tokens, past = case
    return MODES[mode](make_module(model, past), make_ids(model, batch, tokens))


def _compare_variant(
    record: PartRecord,
    dense: PreTrainedModel,
    dense_steps: dict[tuple[Case, str], Step],
    variant: tuple[str, int],
    **also: Any,
) -> None:
    """Add a row for each case and mode of one variant; the plan's figures stand in each."""
    kind, percent = variant
    named = {**also, "kind": kind, "percent": percent}
    started = time.monotonic()
    plan = record.attempt(lambda: make_plan(dense, kind, percent), **named, what="plan")
    if plan is None:
        return
    # Nothing pruned: the dense model against itself, which shows what the method takes for equal.
    pruned = dense if kind == "none" else record.attempt(lambda: cut(dense, plan), **named)
    if pruned is None:
        return
    size = {"bytes": count_bytes(pruned), "cut_seconds": round(time.monotonic() - started, 2)}
    kept = {**record.data.get("kept_by_layer", {}), f"{kind} {percent} %": list_kept(plan)}
    record.state(kept_by_layer=kept)
    cases = dict.fromkeys(case for case, _ in dense_steps)
    about = {case: find_kept_fractions(plan, case[1] + case[2]) for case in cases}
    config = REHEARSAL if record.rehearse else TIMING
    for (case, mode), dense_step in dense_steps.items():
        tried = {**named, "case": describe_case(case), "mode": mode}
        timed = record.attempt(
            lambda case=case, mode=mode, step=dense_step: compare_calls(
                step, _bind(pruned, case, mode), config
            ),
            **tried,
        )
        if timed is not None:
            record.add(**tried, **timed, **about[case], **size)


def describe_case(case: Case) -> dict[str, int]:
    """Name the numbers of a case."""
    return dict(zip(("batch", "tokens", "cached"), case, strict=True))


def _free() -> None:
    """Give what is left of the last model back, so that the next has room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
