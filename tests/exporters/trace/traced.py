"""Traces a tiny model once, and holds its graphs against torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch

from exporters.export_config import ExportConfig
from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.graph_part import GraphPart
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import TRACED_SIZES, trace_graph, write_graph
from pruning.cutting.repack import plan_for, repack
from pruning.plans.plan import LayerPlan
from tests.pruning.tiny_models import make_tiny, read_model

# (batch, sequence, past_sequence, encoder_sequence): of one token, with no past, and longer.
SHAPES = ((1, 1, 0, 1), (1, 1, 1, 3), (2, 7, 0, 2), (1, 1, 6, 5), (4, 3, 2, 9))
# What torch's own capture takes too: it asserts that there is a past, which an ONNX graph does not.
WITH_A_PAST = SHAPES[3:]


@dataclass(frozen=True)
class Traced:
    part: GraphPart
    path: Path


def prune_mixed(model: torch.nn.Module) -> torch.nn.Module:
    """Different counts, no attention in one layer, no MLP in another, and a block less."""
    source = read_model(model)
    layers = []
    for stack in source.dims.stacks:
        size = stack.heads_per_group
        heads = tuple(
            h for h in range(stack.num_heads) if h // size != 1 or stack.num_kv_heads == 1
        )
        for number in range(stack.num_layers):
            cross = heads[-1:] if stack.cross_attention else None
            kept = (
                LayerPlan(kept_heads=heads, kept_neurons=None, kept_cross_heads=cross),
                LayerPlan(kept_heads=None, kept_neurons=(0, 5, 7), kept_cross_heads=cross),
                LayerPlan(
                    kept_heads=(size,) if stack.num_kv_heads > 1 else (0,),
                    kept_neurons=tuple(range(1, 48, 3)),
                    kept_cross_heads=heads if stack.cross_attention else None,
                ),
                LayerPlan.drop_block(),
            )[number % 4]
            layers.append(kept)
    return repack(model, plan_for(model, layers)).eval()


def trace_tiny(
    folder: Path, name: str, prune=None, *, graphs: str = "merged", opset: int = 18, **changes
) -> dict[str, Traced]:
    model = make_tiny(name, "eager", **changes)
    if prune is not None:
        model = prune(model)
    traced = {}
    for part in list_parts(model, ExportConfig(graphs=graphs)):
        path = folder / f"{part.name}.onnx"
        write_graph(trace_graph(part, opset), path)
        traced[part.name] = Traced(part, path)
    return traced


def assert_same_as_torch(traced: Traced) -> None:
    session = onnxruntime.InferenceSession(traced.path)
    names = [tensor.name for tensor in traced.part.inputs]

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feeds)]

    _assert_computes_the_part(run, traced.part, SHAPES)


def assert_captured_as_torch(part: GraphPart) -> None:
    """Hold what a trace begins with, torch's capture, against torch: a quarter of a trace's time.

    What may differ from model to model is here: branches taken, dims that became constants, inputs
    that got lost. The rest of a trace turns the same operators into ONNX.
    """
    free = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, d in enumerate(t.shape) if isinstance(d, str)}
        for t in part.inputs
    )
    inputs = draw_inputs(part.inputs, TRACED_SIZES, padding="left")
    with torch.no_grad():
        program = torch.export.export(
            part.module,
            inputs,
            dynamic_shapes=(free,),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    _assert_computes_the_part(program.module(check_guards=False), part, WITH_A_PAST)


def _assert_computes_the_part(
    run: Callable[..., Sequence[torch.Tensor]],
    part: GraphPart,
    shapes: tuple[tuple[int, int, int, int], ...],
) -> None:
    for batch, sequence, past, encoder in shapes:
        for padding in (None, "right", "left"):
            sizes = {"batch": batch, "sequence": sequence, "past_sequence": past}
            sizes["encoder_sequence"] = encoder
            inputs = draw_inputs(part.inputs, sizes, padding=padding, seed=sequence)
            with torch.no_grad():
                expected = part.module(*inputs)
                came = run(*inputs)
            torch.testing.assert_close(list(came), list(expected))
            assert came[0].isfinite().all()
