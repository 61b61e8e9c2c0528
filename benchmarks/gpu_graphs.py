"""Writes the graphs of dense and pruned encoders, in each form and precision.

Tracing takes a minute of one CPU, so this runs beside what is timed and leaves its files in a
folder, where the timing finds them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from gpu_models import Shape, cut, find_shape, make_dense, make_plan
from gpu_record import PartRecord
from transformers import PreTrainedModel

SHAPES = ("bert-base", "bert-large")
SIDES = ("dense", "pruned")
# Files: beside a pair of graphs when both are whole, and when no more will come.
READY, ENDED = "ready", "ended"
# Inputs and the logits that torch gives for them, beside the graphs.
EXPECTED = "expected.pt"
_PERCENT = 50
# The builder of an engine converts the types by itself.
_FORMS = {"fp16": ("portable", "ort-cuda"), "fp32": ("tensorrt", "portable", "ort-cuda")}
_POLL_SECONDS = 0.5


def write_graphs(record: PartRecord, name: str, folder: Path) -> None:
    """Write `<shape>/<form>-<precision>/<side>.onnx`, and a file `ready` beside each pair."""
    torch.set_num_threads(1)  # others are being timed
    shape = find_shape(name, record.rehearse)
    (folder / name).mkdir()
    try:
        record.attempt(lambda: _write_shape(record, shape, folder), shape=name)
    finally:
        (folder / name / ENDED).touch()


def wait_for(ready: Path, ended: Path, record: PartRecord) -> bool:
    """Wait until a pair is whole; return False when no more will come, or the time is up."""
    while record.seconds_left() > 0:
        if ready.exists():
            return True
        if ended.exists():
            return ready.exists()
        time.sleep(_POLL_SECONDS)
    return False


def _write_shape(record: PartRecord, shape: Shape, folder: Path) -> None:
    started = time.monotonic()
    dense = make_dense(shape, "cpu", torch.float32)
    dense.set_attn_implementation("eager")
    models = {"dense": dense, "pruned": cut(dense, make_plan(dense, "both", _PERCENT))}
    traced = folder / shape.name / "traced"
    for side, model in models.items():
        model.set_attn_implementation("eager")
        _trace(model, traced / f"{side}.onnx")
    torch.save({s: _run(model) for s, model in models.items()}, traced.parent / EXPECTED)
    record.add(shape=shape.name, trace_seconds=round(time.monotonic() - started, 1))
    for precision, forms in _FORMS.items():
        for form in forms:
            what = {"shape": shape.name, "form": form, "precision": precision}
            fused = record.attempt(
                lambda form=form, precision=precision: _write_form(traced, form, precision),
                **what,
            )
            if fused is not None:
                record.add(**what, fused_attentions=fused)


@torch.inference_mode()
def _run(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return inputs, one row of them padded, and the logits."""
    ids = torch.randint(1, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 17:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {**inputs, "logits": model(**inputs).logits}


def _trace(model: PreTrainedModel, path: Path) -> None:
    from exporters.export_config import ExportConfig
    from exporters.trace.list_parts import list_parts
    from exporters.trace.trace_part import trace_graph, write_graph

    path.parent.mkdir(parents=True, exist_ok=True)
    config = ExportConfig()
    (part,) = list_parts(model, config)
    write_graph(trace_graph(part, config.chosen_opset), path)


def _write_form(traced: Path, form: str, precision: str) -> dict[str, int]:
    """Write both sides in the same form; return how many attentions of each are one node."""
    folder = traced.parent / f"{form}-{precision}"
    folder.mkdir()
    fused = {}
    for side in SIDES:
        model = _apply_form(traced / f"{side}.onnx", form)
        fused[side] = sum(node.op_type == "MultiHeadAttention" for node in model.graph.node)
        _save(model, folder / f"{side}.onnx", precision)
    (folder / READY).touch()
    return fused


def _apply_form(path: Path, form: str) -> Any:
    import onnx
    import onnx_ir

    if form == "portable":
        return onnx.load(str(path))
    from exporters.passes.known_forms import apply_form

    model = onnx_ir.load(path)
    apply_form(model, form)
    return onnx_ir.to_proto(model)


def _save(model: Any, path: Path, precision: str) -> None:
    import onnx

    if precision == "fp16":
        import onnx_ir

        from exporters.precision.half_precision import convert_graph

        graph = onnx_ir.from_proto(model)
        convert_graph(graph, onnx_ir.DataType.FLOAT16, half_caches=False)
        model = onnx_ir.to_proto(graph)
    onnx.save(model, str(path))
