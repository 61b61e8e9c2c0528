"""Readers of damaged graphs and plans, and what their answers are compared with.

A cut is compared with its own dense graph whose heads and neurons are masked, a verdict of `verify`
with the logits of both graphs, a description with what onnx itself reads.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# Taken, but nothing tells whether rightly: ONNX Runtime does not run what was taken.
UNJUDGED = "unjudged"


def inspect_graph(folder: Path) -> str | None:
    """Describe a graph: inputs, outputs, sizes and weights must be those that onnx reads."""
    import onnx

    from exporters.graphs.graph_structure import inspect_onnx

    found = inspect_onnx(folder / "model.onnx")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    tensors = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    given = tuple(value.name for value in graph.input if value.name not in tensors)
    if tuple(name for name in found.inputs if name not in tensors) != given:
        return f"the inputs {found.inputs}, onnx reads {given}"
    if found.outputs != tuple(value.name for value in graph.output):
        return f"the outputs {found.outputs}"
    for row in found.rows:
        units = row.num_neurons if row.kind == "mlp" else (row.num_heads or 0) * (row.head_dim or 0)
        if row.weight in tensors and units not in tensors[row.weight]:
            return f"{row.kind} of {units} units, whose weight has {tensors[row.weight]}"
        if row.num_kv_heads and (row.num_heads or 0) % row.num_kv_heads:
            return f"{row.num_heads} heads in {row.num_kv_heads} groups"
    whole = _describe_whole(folder.parent / "base" / "graph" / "model.onnx")
    if _list_structure(graph) == whole[1] and found.rows != whole[0].rows:
        return "another structure is described, though only values of weights changed"
    return None


@functools.cache
def _describe_whole(path: Path) -> tuple[Any, Any]:
    import onnx

    from exporters.graphs.graph_structure import inspect_onnx

    return inspect_onnx(path), _list_structure(onnx.load(path).graph)


def _list_structure(graph: onnx.GraphProto) -> Any:
    """Return all of a graph but the values of its float weights."""
    return (
        [node.SerializeToString() for node in graph.node],
        [
            (t.name, tuple(t.dims), t.data_type, b"" if t.data_type == 1 else t.raw_data)
            for t in graph.initializer
        ],
        [value.SerializeToString() for value in (*graph.input, *graph.output)],
    )


def verify_graph(folder: Path) -> str | None:
    """Compare a damaged graph with the whole one; the verdict must be that of their logits."""
    import nirvana_deploy as api

    whole = folder.parent / "base" / "graph" / "model.onnx"
    passed = api.verify(whole, folder / "model.onnx").passed
    expected, found = _run(whole), _run(folder / "model.onnx")
    if expected is None or found is None:
        return UNJUDGED
    gap = _find_gap(expected, found)
    if passed and gap > 1e-3:
        return f"called equal, and the logits differ by {gap:.2g} of their scale"
    if not passed and gap == 0 and (folder / "model.onnx").read_bytes() == whole.read_bytes():
        return "called different, and is the same file"
    return None


def cut_graph(folder: Path) -> str | None:
    """Cut a damaged graph: it must compute what the same graph computes with its units masked."""
    from exporters.surgeon.prune_onnx import prune_onnx
    from pruning.plans.plan import PruningPlan

    plan = PruningPlan.load(folder / "plan.json")
    prune_onnx(folder / "model.onnx", plan, folder / "cut.onnx")
    places = _find_outputs(folder.parent / "base" / "graph" / "model.onnx")
    found = _run(folder / "cut.onnx")
    masked = _mask(folder / "model.onnx", places, plan)
    expected = None if masked is None else _run(masked)
    if expected is None:
        return UNJUDGED
    if found is None:
        return "ONNX Runtime runs the graph, but not what was cut from it"
    gap = _find_gap(expected, found)
    return None if gap < 1e-3 else f"the cut's logits are off by {gap:.2g} of their scale"


def apply_plan(folder: Path) -> str | None:
    """Apply a damaged plan to checkpoint and graph: both give the masked model's logits.

    A graph does not tell how many values of a bias or a norm a block has: of a plan that counts
    others the checkpoint alone may be refused.
    """
    import torch

    import nirvana_deploy as api
    from exporters.surgeon.prune_onnx import prune_onnx
    from pruning.checkpoints.checkpoint import load_pruned
    from pruning.cutting.masking import masked
    from pruning.cutting.wiring_inference import read_model
    from pruning.errors import NirvanaError
    from pruning.plans.plan import PruningPlan

    base, reason = folder.parent / "base", None
    plan = PruningPlan.load(folder / "plan.json")
    try:
        api.apply_plan(base / "whole", plan, out=folder / "out")
    except NirvanaError as error:
        reason = error
    try:
        prune_onnx(base / "graph" / "model.onnx", plan, folder / "cut.onnx")
    except NirvanaError as error:
        if reason is None:
            return f"the surgeon alone refuses the plan: {str(error)[:150]}"
        raise
    if reason is not None and "sizes." not in str(reason):
        return f"only the surgeon takes the plan: {str(reason)[:150]}"
    whole = _load_whole(base / "whole")
    feeds = {name: torch.tensor(value) for name, value in _draw_feeds().items()}
    with torch.no_grad():
        with masked(whole, plan, read_model(whole).wiring):
            expected = whole(**feeds).logits.numpy()
        pruned = expected
        if reason is None:
            pruned = load_pruned(folder / "out").eval()(**feeds).logits.numpy()
    for what, found in (("checkpoint", pruned), ("graph", _run(folder / "cut.onnx"))):
        if found is None or not _find_gap(expected, found) < 1e-3:
            return f"the pruned {what} does not compute what the masked model does"
    return None


def build_graph(folder: Path) -> str | None:
    """Read a graph as `nirvana build` does before TensorRT sees it."""
    from exporters.engines.build_graph import read_build_graph
    from exporters.engines.engine_config import EngineConfig

    read_build_graph(folder / "model.onnx", EngineConfig())
    return None


def package_graph(folder: Path) -> str | None:
    """Read a graph as `nirvana package` and `serve` do."""
    from exporters.graphs.load_graph import find_id_limits
    from nirvana_deploy.serving.onnx_signature import read_signature

    signature = read_signature(folder / "model.onnx")
    limits = find_id_limits(folder / "model.onnx")
    names = {tensor.name for tensor in signature.inputs}
    return None if limits.keys() <= names else f"limits {limits} of what is no input"


def profile_graph(folder: Path) -> str | None:
    """Read the form of a graph as `nirvana profile` does."""
    from profiles.comparing.profile_artefacts import list_differences, read_graph_form

    whole = folder.parent / "base" / "graph" / "model.onnx"
    list_differences(read_graph_form(whole), read_graph_form(folder / "model.onnx"))
    return None


def load_decoder(folder: Path) -> str | None:
    """Read a decoder's graph as GenAI's packages and `load` do."""
    from nirvana_deploy.serving.graph_decoder import read_decoder
    from nirvana_deploy.serving.loaded.open_model import load_export

    read_decoder(folder / "model.onnx")
    load_export(folder)
    return None


@functools.cache
def _load_whole(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


@functools.cache
def _draw_feeds() -> dict[str, Any]:
    """Return rows over the whole vocabulary, one of them padded."""
    import numpy as np

    ids = np.random.default_rng(0).permutation(np.arange(160) % 99).reshape(4, 40)
    mask = np.ones_like(ids)
    mask[1, 25:] = 0
    types = (np.arange(40) >= 20).astype("int64")[None].repeat(4, 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def _run(model: Path | onnx.ModelProto) -> Any:
    """Return the logits; None where ONNX Runtime does not take or run the graph."""
    import onnxruntime

    from exporters.onnx_session import open_session

    try:
        if isinstance(model, Path):
            session = open_session(model)
        else:
            session = open_session(model.SerializeToString(), name="masked.onnx")
        feeds = {name: _draw_feeds()[name] for name in (i.name for i in session.get_inputs())}
        (logits,) = session.run(None, feeds)
    except Exception:  # of any kind: such a graph has no logits to compare
        return None
    finally:
        onnxruntime.set_default_logger_severity(4)
    return logits


def _find_gap(expected: Any, found: Any) -> float:
    """Return the largest difference over the largest value; infinite where one is no number."""
    import numpy as np

    if expected.shape != found.shape or expected.dtype.kind != "f" or found.dtype.kind != "f":
        return math.inf
    left, right = np.isfinite(expected), np.isfinite(found)
    if not np.array_equal(left, right):
        return math.inf
    if not left.any():
        return 0.0
    gap = np.abs(expected - found)[left].max() / max(1e-3, np.abs(expected[left]).max())
    return float(gap)


@functools.cache
def _find_outputs(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the names of each layer's output projections: of the attention and of the MLP."""
    import onnx

    graph = onnx.load(path).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    mlps = [node.name for node in products if shapes.get(node.input[1]) == (48, 32)]
    attentions = [
        node.name
        for node in products
        if shapes.get(node.input[1]) == (32, 32) and made_by[node.input[0]] == "Reshape"
    ]
    return tuple(zip(attentions, mlps, strict=True))


def _mask(path: Path, places: Any, plan: Any) -> onnx.ModelProto | None:
    """Return a graph whose output projections get zeros of the units that a plan removes."""
    import numpy as np
    import onnx

    try:
        model = onnx.load(path)
    except Exception:  # the surgeon read it: then this is only a file that onnx itself refuses
        return None
    nodes = {node.name: node for node in model.graph.node}
    zero = onnx.numpy_helper.from_array(np.zeros((), "float32"), "masked")
    model.graph.initializer.append(zero)
    for layer, names in zip(plan.layers, places, strict=True):
        kept_units = (layer.kept_heads, layer.kept_neurons)
        for name, kept, size, width in zip(names, kept_units, (4, 48), (8, 1), strict=True):
            if name not in nodes or kept is None:
                return None
            mask = np.isin(np.arange(size), kept).repeat(width)
            _mask_product(model.graph, nodes[name], mask)
    return model


def _mask_product(graph: onnx.GraphProto, node: onnx.NodeProto, mask: Any) -> None:
    """Put zeros in place of what a node gets where `mask` is false, and of its weight's rows.

    They are not multiplied with zero, as NaN would stay.
    """
    import numpy as np
    import onnx

    name, (given, weight) = node.name, node.input[:2]
    graph.initializer.append(onnx.numpy_helper.from_array(mask, f"mask {name}"))
    for tensor in list(graph.initializer):
        rows = onnx.numpy_helper.to_array(tensor) if tensor.name == weight else None
        if rows is not None and rows.shape[:1] == mask.shape:
            kept = np.where(mask[:, None], rows, np.zeros_like(rows))
            graph.initializer.append(onnx.numpy_helper.from_array(kept, f"kept {name}"))
            node.input[1] = f"kept {name}"
    node.input[0] = f"given {name}"
    at = next(n for n, each in enumerate(graph.node) if each.name == name)
    inputs = [f"mask {name}", given, "masked"]
    graph.node.insert(at, onnx.helper.make_node("Where", inputs, [f"given {name}"]))
