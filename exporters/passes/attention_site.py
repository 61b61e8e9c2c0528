"""Finds the attentions of a graph by their structure, whatever exporter wrote it.

Legend of dims: B batch, S query length, T key length, H query heads, G key-value heads, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from exporters.passes.graph_pass import NoMatchError, Refusal
from exporters.passes.graph_reading import (
    expect_dims,
    expect_producer,
    expect_static,
    find_producer,
    name_node,
    read_axis,
    read_constant,
    read_perm,
    read_scalar,
    split_scalar,
)

_SPLIT = (0, 2, 1, 3)  # [B, S, H, D] <-> [B, H, S, D]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSite:
    """One attention: softmax(scale * query @ key^T + bias) @ value, and what carries it.

    Attributes:
        anchor: its softmax, or its Attention operator; names it in messages.
        query: [B, H, S, D].
        key: [B, G, T, D]: before its heads are repeated for the query heads that share them, or
            [B, T, G, D] where `key_is_split` is false.
        value: [B, G, T, D].
        bias: added to the scores, broadcast to [B, H, S, T]; or None.
        softcap: the scores are squeezed to +- this by tanh; 0: they are not.
        output: [B, H, S, D].
        merged: its output [B, S, H * D], or [B * S, H * D] where a flat product follows.
    """

    anchor: ir.Node
    query: ir.Value
    key: ir.Value
    key_is_split: bool
    value: ir.Value
    bias: ir.Value | None
    scale: float
    softcap: float
    num_heads: int
    num_kv_heads: int
    head_dim: int
    output: ir.Value
    merged: ir.Value

    @property
    def name(self) -> str:
        """Name the attention as its node is named."""
        return name_node(self.anchor)


def find_attentions(model: ir.Model) -> Iterator[AttentionSite | Refusal]:
    """Yield each attention in the graph's order; a refusal for a softmax that is in none."""
    for node in list(model.graph):
        if node.op_type not in ("Softmax", "Attention") or node.domain:
            continue
        try:
            yield _read_primitives(node) if node.op_type == "Softmax" else _read_operator(node)
        except NoMatchError as error:
            yield Refusal(node=name_node(node), reason=str(error))


def _read_primitives(softmax: ir.Node) -> AttentionSite:
    scores = softmax.inputs[0]
    assert scores is not None
    rank = len(scores.shape) if scores.shape is not None else 0
    if read_axis(softmax) not in (-1, rank - 1):
        raise NoMatchError("its softmax is not over the keys")
    product = _only_user(softmax.outputs[0], "MatMul", "the softmax")
    if product.inputs[0] is not softmax.outputs[0]:
        raise NoMatchError("the softmax is the right factor of its product")
    value, _ = _unrepeat(product.inputs[1])
    scores, bias = _split_bias(scores)
    scores, softcap = _split_softcap(scores)
    scores, scale = _split_scale(scores)
    scored = expect_producer(scores, "the scores", "MatMul")
    query, key_t = scored.inputs
    assert query is not None
    key, key_is_split = _untranspose(key_t)
    if key_is_split:
        key, _ = _unrepeat(key)
    return _make_site(
        softmax, query, key, key_is_split, value, bias, scale, softcap, product.outputs[0]
    )


def _read_operator(node: ir.Node) -> AttentionSite:
    """Read an Attention operator of opset 23 with split heads and no cache of its own."""
    query, key, value = node.inputs[:3]
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    if len(node.outputs) > 1 or any(extra is not None for extra in node.inputs[4:]):
        raise NoMatchError("the Attention operator has a cache or more outputs")
    is_causal = node.attributes.get("is_causal")
    if is_causal is not None and is_causal.as_int():
        raise NoMatchError("the Attention operator is causal by attribute")
    if bias is not None and bias.dtype == ir.DataType.BOOL:
        raise NoMatchError("the Attention operator has a boolean mask; AdditiveMasks comes first")
    assert query is not None and key is not None and value is not None
    key, value = _unrepeat(key)[0], _unrepeat(value)[0]
    dims = expect_dims(query, 4, "the query")
    scale = node.attributes.get("scale")
    softcap = node.attributes.get("softcap")
    default = 1 / math.sqrt(expect_static(dims[3], "the head dim"))
    return _make_site(
        node,
        query,
        key,
        True,
        value,
        bias,
        scale.as_float() if scale is not None else default,
        softcap.as_float() if softcap is not None else 0.0,
        node.outputs[0],
    )


def _make_site(
    anchor: ir.Node,
    query: ir.Value,
    key: ir.Value,
    key_is_split: bool,
    value: ir.Value,
    bias: ir.Value | None,
    scale: float,
    softcap: float,
    output: ir.Value,
) -> AttentionSite:
    query_dims = expect_dims(query, 4, "the query")
    value_dims = expect_dims(value, 4, "the value")
    key_dims = expect_dims(key, 4, "the key")
    num_heads = expect_static(query_dims[1], "the number of query heads")
    num_kv_heads = expect_static(value_dims[1], "the number of key-value heads")
    head_dim = expect_static(query_dims[3], "the head dim")
    if key_dims[1 if key_is_split else 2] != num_kv_heads:
        raise NoMatchError(f"key {key_dims} and value {value_dims} differ in heads")
    if num_heads % num_kv_heads:
        raise NoMatchError(f"{num_heads} query heads do not divide among {num_kv_heads} groups")
    if value_dims[3] != head_dim:
        raise NoMatchError(f"query and value differ in head dim: {head_dim}, {value_dims[3]}")
    return AttentionSite(
        anchor=anchor,
        query=query,
        key=key,
        key_is_split=key_is_split,
        value=value,
        bias=bias,
        scale=scale,
        softcap=softcap,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        output=output,
        merged=_find_merged(output, num_heads * head_dim),
    )


def _find_merged(output: ir.Value, width: int) -> ir.Value:
    """Follow the output [B, H, S, D] through its Transpose and Reshape to [B, S, H * D]."""
    alone = output.shape is not None and output.shape[1] == 1
    if not (alone and [use.node.op_type for use in output.uses()] == ["Reshape"]):
        transpose = _only_user(output, "Transpose", "the attention's output")
        if read_perm(transpose) != _SPLIT:
            raise NoMatchError(f"its output is transposed by {read_perm(transpose)}")
        output = transpose.outputs[0]
    reshape = _only_user(output, "Reshape", "the attention's output")
    merged = reshape.outputs[0]
    shape = merged.shape
    if shape is None or len(shape) not in (2, 3) or shape[-1] != width:
        raise NoMatchError(f"its output becomes {shape}, expected a last dim of {width}")
    return merged


def _only_user(value: ir.Value, op_type: str, what: str) -> ir.Node:
    """Return the one user of `value`, past a Cast to the same type or an Identity."""
    users = [use.node for use in value.uses()]
    if len(users) == 1 and users[0].op_type == "Identity":
        return _only_user(users[0].outputs[0], op_type, what)
    if len(users) != 1 or users[0].op_type != op_type or value.is_graph_output():
        names = ", ".join(user.op_type for user in users) or "no node"
        raise NoMatchError(f"{what} goes to {names}, expected one {op_type}")
    return users[0]


def _split_bias(scores: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Take apart scores + bias; the scores are the side that a product leads to."""
    node = find_producer(scores, "Add")
    if node is None:
        return scores, None
    for mine, other in ((0, 1), (1, 0)):
        if leads_to_product(node.inputs[mine]):
            return node.inputs[mine], node.inputs[other]
    raise NoMatchError("neither side of the sum before its softmax is a scaled product")


def leads_to_product(value: ir.Value | None, depth: int = 5) -> bool:
    """Return whether a value is a product of two tensors, scaled or squeezed."""
    node = find_producer(value, "MatMul", "Mul", "Div", "Tanh")
    if node is None or depth == 0:
        return False
    if node.op_type == "MatMul":
        return True
    if node.op_type == "Mul":
        split = split_scalar(node)
        return split is not None and leads_to_product(split[0], depth - 1)
    return leads_to_product(node.inputs[0], depth - 1)


def _split_softcap(scores: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Take apart cap * tanh(scores / cap)."""
    outer = find_producer(scores, "Mul")
    split = split_scalar(outer) if outer is not None else None
    tanh = find_producer(split[0], "Tanh") if split is not None else None
    if split is None or tanh is None:
        return scores, 0.0
    inner, factor = _split_scale(tanh.inputs[0], levels=1)
    if not math.isclose(factor * split[1], 1.0, rel_tol=1e-5):
        raise NoMatchError(f"its softcap multiplies by {split[1]} and {factor}")
    return inner, split[1]


def _split_scale(scores: ir.Value | None, levels: int = 3) -> tuple[ir.Value | None, float]:
    """Take the constant factors off the scores."""
    scale = 1.0
    for _ in range(levels):
        node = find_producer(scores, "Mul", "Div")
        if node is None:
            break
        if node.op_type == "Div":
            divisor = read_scalar(node.inputs[1])
            if divisor is None:
                break
            scores, scale = node.inputs[0], scale / divisor
            continue
        split = split_scalar(node)
        if split is None:
            break
        scores, scale = split[0], scale * split[1]
    return scores, scale


def _untranspose(key_t: ir.Value | None) -> tuple[ir.Value, bool]:
    """Return the key before its transposition, and whether that is [B, G, T, D]."""
    node = expect_producer(key_t, "the key", "Transpose")
    source = node.inputs[0]
    assert source is not None
    perm = read_perm(node)
    if perm == (0, 1, 3, 2):
        return source, True
    if perm == (0, 2, 3, 1):
        return source, False
    raise NoMatchError(f"its key is transposed by {perm}")


def _unrepeat(value: ir.Value | None) -> tuple[ir.Value, int]:
    """Return [B, G, T, D] for a value whose heads were repeated to [B, G * n, T, D], and n."""
    assert value is not None
    reshape = find_producer(value, "Reshape")
    expand = find_producer(reshape.inputs[0], "Expand") if reshape is not None else None
    unsqueeze = find_producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if unsqueeze is None or expand is None:
        return value, 1
    axes = read_constant(unsqueeze.inputs[1])
    source = unsqueeze.inputs[0]
    assert source is not None
    if axes is None or axes.tolist() != [2]:
        return value, 1
    before = expect_dims(source, 4, "the repeated heads")
    repeated = expect_dims(expand.outputs[0], 5, "the repeated heads")
    after = expect_dims(value, 4, "the repeated heads")
    if repeated[1] != before[1] or repeated[4] != before[3] or after[3] != before[3]:
        raise NoMatchError(f"its heads are repeated from {before} to {after}")
    return source, expect_static(repeated[2], "how often a head is repeated")
