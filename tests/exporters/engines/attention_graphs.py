"""Graphs of one attention: alone, over a cache that grows, over one that is written in place."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

HEAD_DIM = 16
CACHE_LENGTH = 24
Dims = tuple[int | str, ...]


def save_attention(path: Path, num_heads: int) -> Path:
    """Save y = Attention(q, k, v, mask), whose mask is the same for all heads."""
    dims = ("batch", num_heads, "sequence", HEAD_DIM)
    node = helper.make_node("Attention", ["q", "k", "v", "mask"], ["y"], name="attention")
    inputs = dict.fromkeys(("q", "k", "v"), dims)
    inputs["mask"] = ("batch", 1, 1, "sequence")
    return _save(path, [node], inputs, {"y": dims})


def save_cached_attention(path: Path, num_heads: int) -> Path:
    """Save an attention over past keys and values and new ones; the new cache is an output."""
    new = ("batch", num_heads, "sequence", HEAD_DIM)
    past = ("batch", num_heads, "past_sequence", HEAD_DIM)
    total = ("batch", num_heads, "total_sequence", HEAD_DIM)
    caches = {f"past_key_values.0.{what}": past for what in ("key", "value")}
    nodes = [
        helper.make_node("Concat", [name, what], [f"present.0.{what}"], name=what, axis=2)
        for name, what in zip(caches, ("key", "value"), strict=True)
    ]
    nodes.append(
        helper.make_node(
            "Attention", ["q", "present.0.key", "present.0.value"], ["y"], name="attention"
        )
    )
    outputs = {"y": new, "present.0.key": total, "present.0.value": total}
    return _save(path, nodes, {"q": new, "key": new, "value": new, **caches}, outputs)


def save_attention_in_place(path: Path, num_heads: int) -> Path:
    """Save an attention over a buffer into which TensorScatter writes the new keys and values."""
    new = ("batch", num_heads, "sequence", HEAD_DIM)
    buffer = ("batch", num_heads, CACHE_LENGTH, HEAD_DIM)
    caches = {f"past_key_values.0.{what}": buffer for what in ("key", "value")}
    nodes = [
        helper.make_node(
            "TensorScatter", [name, what, "start"], [f"present.0.{what}"], name=what, axis=2
        )
        for name, what in zip(caches, ("key", "value"), strict=True)
    ]
    nodes.append(
        helper.make_node(
            "Attention", ["q", "present.0.key", "present.0.value"], ["y"], name="attention"
        )
    )
    inputs = {"q": new, "key": new, "value": new, **caches}
    outputs = {"y": new, "present.0.key": buffer, "present.0.value": buffer}
    return _save(path, nodes, inputs, outputs, start=("batch",))


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Dims],
    outputs: dict[str, Dims],
    **integers: Dims,
) -> Path:
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            *(helper.make_tensor_value_info(name, floats, dims) for name, dims in inputs.items()),
            *(
                helper.make_tensor_value_info(name, TensorProto.INT64, dims)
                for name, dims in integers.items()
            ),
        ],
        [helper.make_tensor_value_info(name, floats, dims) for name, dims in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    onnx.save(model, path)
    return path
