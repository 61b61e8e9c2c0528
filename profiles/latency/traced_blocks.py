"""Traces a sample model, cuts it into its blocks, and keeps them in a folder with their inputs.

sample.json       the blocks, in order
blocks/NAME.onnx  each block's graph
dense.onnx        the whole dense model
before.onnx       what it computes before its blocks: embeddings, masks
after.onnx        what it computes after them: its head
NAME.npz          what each of these takes, for one shape of call
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from exporters.export_config import ExportConfig
from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.graph_part import GraphPart, GraphTensor
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph
from profiles.latency.sample_blocks import SampleBlock, cut_blocks, make_sample_model
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from profiles.runners.runner import Tensors
from profiles.targets.block_work import CallShape
from pruning.cutting.wiring_inference import read_model
from pruning.strict_json import read_json
from pruning.wirings.structure import find_stacks

if TYPE_CHECKING:
    import onnx_ir

SAMPLE_FILE = "sample.json"
DENSE, BEFORE, AFTER = "dense", "before", "after"


def trace_blocks(
    model: PreTrainedModel, call: CallShape, config: ExportConfig, num_points: int, folder: Path
) -> None:
    """Fill `folder` from a dense model that was loaded with eager attention.

    Raises:
        NirvanaError: the model has no table (see `make_sample_model`), or cannot be exported.
    """
    (folder / "blocks").mkdir(parents=True, exist_ok=True)
    sample, blocks = make_sample_model(model, num_points)
    _save_dense(model, call, config, folder)
    part, graph, cuts = _trace(sample, config)
    found = cut_blocks(graph, cuts)
    given = _draw(part, call)
    values = _compute(graph, {name for block in found for name in block.inputs}, given, folder)
    listed = []
    for block, found_block in zip(blocks, found, strict=True):
        _save(folder / "blocks" / block.name, found_block.model, values)
        listed.append({**asdict(block), "num_nodes": found_block.num_nodes})
    # The last to be written: a folder that has it is whole.
    (folder / SAMPLE_FILE).write_text(json.dumps({"blocks": listed}, indent=1) + "\n")


def open_blocks(folder: Path, num_threads: int) -> dict[str, Callable[[], Tensors]]:
    """Return a bound call for each block of a folder, for the dense model, and for its ends.

    A block that hands on what it gets has none.
    """
    listed = _read_listed(folder)
    blocks = (SampleBlock(part=e["part"], kept=e["kept"]) for e in listed if e["num_nodes"])
    paths = {block.name: folder / "blocks" / block.name for block in blocks}
    paths |= {name: folder / name for name in (BEFORE, AFTER, DENSE)}
    calls = {}
    for name, path in paths.items():
        runner = OnnxRuntimeRunner(
            path.with_name(f"{path.name}.onnx"), name=name, num_threads=num_threads
        )
        with np.load(path.with_name(f"{path.name}.npz")) as stored:
            calls[name] = runner.bind({spec.name: stored[spec.name] for spec in runner.inputs})
    return calls


def list_traced(folder: Path) -> tuple[SampleBlock, ...]:
    """Return the blocks of a folder; those that compute nothing are among them."""
    return tuple(SampleBlock(part=e["part"], kept=e["kept"]) for e in _read_listed(folder))


class _Block(TypedDict):
    part: Literal["none", "attention", "mlp"]
    kept: int
    num_nodes: int


class _Sample(TypedDict):
    blocks: list[_Block]


def _read_listed(folder: Path) -> list[_Block]:
    return read_json(folder / SAMPLE_FILE, _Sample, remedy=f"Delete {folder}.")["blocks"]


class CutModule(nn.Module):
    """A part's module that also returns the hidden states before and after every block."""

    def __init__(self, part: GraphPart, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.module = part.module
        self.blocks = list(blocks)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs, then the states."""
        states: list[torch.Tensor] = []

        def watch(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            states.append(args[0] if args else kwargs["hidden_states"])
            last[:] = [output[0] if isinstance(output, tuple) else output]

        last: list[torch.Tensor] = []
        hooks = [block.register_forward_hook(watch, with_kwargs=True) for block in self.blocks]
        try:
            outputs = self.module(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return (*outputs, *states, *last)


def _save_dense(
    model: PreTrainedModel, call: CallShape, config: ExportConfig, folder: Path
) -> None:
    """Write the dense model, and what is before and after its blocks."""
    from onnx_ir.convenience import extract

    part, graph, cuts = _trace(model, config)
    given = _draw(part, call)
    taken = {name for block in cut_blocks(graph, cuts) for name in block.inputs}
    (after,) = cut_blocks(graph, (cuts[-1], part.outputs[0].name))
    values = _compute(graph, set(after.inputs), given, folder)
    shared = sorted(taken - set(cuts[1:]) - set(given))
    before = extract(graph.graph, list(graph.graph.inputs), shared)
    _save(folder / BEFORE, _as_model(before, graph), values)
    _save(folder / AFTER, after.model, values)
    _set_outputs(graph, [tensor.name for tensor in part.outputs])
    _save(folder / DENSE, graph, values)


def _as_model(graph: onnx_ir.Graph, of: onnx_ir.Model) -> onnx_ir.Model:
    """Make a model of a graph that was taken out of another."""
    import onnx_ir

    return onnx_ir.Model(graph, ir_version=of.ir_version)


def _trace(model: PreTrainedModel, config: ExportConfig) -> tuple[GraphPart, Any, list[str]]:
    """Return the part that is called last, its graph with the states as outputs, their names."""
    part = list_parts(model, config)[-1]
    source = read_model(model)
    ((_, blocks),) = find_stacks(model, source.wiring)
    cuts = [f"cut.{number}" for number in range(len(blocks) + 1)]
    width = source.dims.stacks[0].hidden_size
    states = tuple(
        GraphTensor(name=cut, dtype=model.dtype, shape=("batch", "sequence", width)) for cut in cuts
    )
    module = CutModule(part, list(blocks)).eval()
    wrapped = replace(part, module=module, outputs=(*part.outputs, *states))
    return part, trace_graph(wrapped, config.chosen_opset), cuts


def _draw(part: GraphPart, call: CallShape) -> dict[str, Any]:
    """Return inputs for one call, unpadded, as every row of a full batch is."""
    sizes = {"batch": call.batch, "sequence": call.length, "past_sequence": call.past}
    tensors = draw_inputs(part.inputs, sizes)
    return {tensor.name: value.numpy() for tensor, value in zip(part.inputs, tensors, strict=True)}


def _compute(
    graph: onnx_ir.Model, needed: set[str], given: Tensors, folder: Path
) -> dict[str, Any]:
    """Run the whole graph once for the values that its parts take; return these and `given`."""
    outputs = [str(value.name) for value in graph.graph.outputs]
    _set_outputs(graph, sorted(needed - set(given)))
    path = folder / "whole.onnx"
    _write(path, graph)
    runner = OnnxRuntimeRunner(path, name="whole")
    computed = runner.bind({spec.name: given[spec.name] for spec in runner.inputs})()
    for left in folder.glob("whole.onnx*"):
        left.unlink()
    _set_outputs(graph, outputs)
    return {**given, **computed}


def _set_outputs(model: onnx_ir.Model, names: Sequence[str]) -> None:
    from onnx_ir.convenience import create_value_mapping

    values = create_value_mapping(model.graph)
    model.graph.outputs.clear()
    model.graph.outputs.extend(values[name] for name in names)


def _save(path: Path, model: onnx_ir.Model, values: Tensors) -> None:
    """Write `path`.onnx, and what it takes of `values` beside it."""
    _write(path.with_name(f"{path.name}.onnx"), model)
    taken: dict[str, Any] = {str(v.name): values[str(v.name)] for v in model.graph.inputs}
    np.savez(path.with_name(f"{path.name}.npz"), **taken)


def _write(path: Path, model: onnx_ir.Model) -> None:
    import onnx_ir

    onnx_ir.save(model, path, external_data=f"{path.name}.data")  # of any size
