"""Traces tiny models once, and holds a form of a graph against its portable form."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from exporters.export_config import ExportConfig, Form
from exporters.passes.graph_pass import PassOutcome
from exporters.passes.known_forms import apply_form
from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.graph_part import GraphPart
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph
from pruning.cutting.repack import repack
from tests.pruning.tiny_models import PLANS, make_tiny

# (batch, sequence, past_sequence): prompts, a prompt in two parts, and steps. GroupQueryAttention
# takes a prompt in parts for one row only.
SHAPES = ((1, 1, 0), (2, 5, 0), (3, 9, 0), (1, 4, 3), (1, 1, 6), (4, 1, 9))

# TensorRT has kernels from this head dim on, and asks for this opset.
_TRACED = {"llama": ({"head_dim": 16}, 24)}


@cache
def trace(name: str, plan: str | None, graphs: str = "merged") -> tuple[GraphPart, bytes]:
    """The first graph of a tiny model, as bytes: passes change a graph in place."""
    changes, opset = _TRACED.get(name, ({}, 20))
    model = make_tiny(name, "eager", **changes)
    if plan is not None:
        model = repack(model, PLANS[plan](model)).eval()
    part = list_parts(model, ExportConfig(graphs=graphs))[0]
    return part, ir.to_proto(trace_graph(part, opset)).SerializeToString()


def load(name: str, plan: str | None = None, graphs: str = "merged") -> ir.Model:
    return ir.from_proto(onnx.load_from_string(trace(name, plan, graphs)[1]))


def form(
    name: str, plan: str | None, wanted: Form, **options: int | None
) -> tuple[ir.Model, dict[str, PassOutcome]]:
    model = load(name, plan)
    outcomes = apply_form(model, wanted, **options)
    return model, {outcome.name: outcome for outcome in outcomes}


def count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


def read_heads(model: ir.Model, op_type: str, attribute: str = "num_heads") -> list[int]:
    return [n.attributes[attribute].as_int() for n in model.graph if n.op_type == op_type]


def open_session(model: ir.Model) -> onnxruntime.InferenceSession:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString())


def assert_same_as_portable(
    model: ir.Model, name: str, plan: str | None, shapes=SHAPES, graphs: str = "merged"
) -> None:
    """Outputs, caches included, agree wherever a token is no padding."""
    part, _ = trace(name, plan, graphs)
    plain = load(name, plan, graphs)
    apply_form(plain, "portable")
    expected_from, came_from = open_session(plain), open_session(model)
    assert [(i.name, i.shape) for i in came_from.get_inputs()] == [
        (i.name, i.shape) for i in expected_from.get_inputs()
    ]
    names = [output.name for output in expected_from.get_outputs()]
    assert [output.name for output in came_from.get_outputs()] == names
    has_cache = any("past" in tensor.name for tensor in part.inputs)
    for batch, length, past in shapes:
        if past and not has_cache:
            continue
        for padding in (None, "right", "left"):
            sizes = {"batch": batch, "sequence": length, "past_sequence": past}
            tensors = draw_inputs(part.inputs, sizes, padding=padding, seed=length)
            feeds = {t.name: v.numpy() for t, v in zip(part.inputs, tensors, strict=True)}
            live = feeds.get("attention_mask")
            expected, came = expected_from.run(None, feeds), came_from.run(None, feeds)
            for name_, a, b in zip(names, expected, came, strict=True):
                assert a.shape == b.shape, name_
                a, b = _keep_live(a, b, live, length, past)
                np.testing.assert_allclose(b, a, atol=1e-5, rtol=1e-4, err_msg=name_)


def _keep_live(a, b, live, length, past):
    """What padding computes is nobody's: it may differ."""
    if live is None or a.ndim == 2:
        return a, b
    if a.ndim == 4 and a.shape[2] == live.shape[1]:
        kept = live.astype(bool)
        return a.transpose(0, 2, 1, 3)[kept], b.transpose(0, 2, 1, 3)[kept]
    if a.ndim == 3 and a.shape[1] == length:
        kept = live[:, past:].astype(bool) if live.shape[1] != length else live.astype(bool)
        return a[kept], b[kept]
    return a, b
