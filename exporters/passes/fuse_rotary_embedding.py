"""Fuses x * cos + rotate_half(x) * sin into ONNX Runtime's RotaryEmbedding.

The operator looks its angles up in a table by position. Here the table has a row for each token of
the call, [B * S, D / 2], computed once from the positions as the model computes them: it has no
largest position, and a model's own scaling of the angles stays what it is.

Legend of dims: B batch, S length, H heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.passes.attention_inputs import find_split_source, merge_heads
from exporters.passes.graph_pass import (
    CONTRIB,
    GraphPass,
    NoMatchError,
    PassOutcome,
    Refusal,
    use_contrib,
)
from exporters.passes.graph_reading import (
    expect_dims,
    expect_producer,
    expect_static,
    find_producer,
    make_constant,
    make_node,
    name_node,
    read_axis,
    read_constant,
    split_scalar,
    take_over,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """The half tables [rows, D / 2] of cos and sin, and the row of each token [B, S]."""

    cos: ir.Value
    sin: ir.Value
    rows: ir.Value


class FuseRotaryEmbedding(GraphPass):
    """Write the rotation of a query or key as one node over [B, S, H * D]."""

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Fuse in place what fits."""
        refusals: list[Refusal] = []
        tables: dict[tuple[ir.Value, ir.Value], _Table] = {}
        num_fused = 0
        for node in list(model.graph):
            halves = _find_rotation(node)
            if halves is None:
                continue
            try:
                _fuse(model, node, *halves, tables)
                num_fused += 1
            except NoMatchError as error:
                refusals.append(Refusal(node=name_node(node), reason=str(error)))
        if num_fused:
            use_contrib(model)
        return self.tell(num_fused, refusals)


def _find_rotation(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Return x, cos and sin of x * cos + Concat(-x[D/2:], x[:D/2]) * sin."""
    if node.op_type != "Add":
        return None
    products = [find_producer(value, "Mul") for value in node.inputs]
    if products[0] is None or products[1] is None:
        return None
    for straight, turned in (products, products[::-1]):
        assert straight is not None and turned is not None
        for source, sin in (turned.inputs, turned.inputs[::-1]):
            x = _find_half_rotated(source)
            if x is None or sin is None or x not in straight.inputs:
                continue
            (cos,) = [value for value in straight.inputs if value is not x] or [None]
            if cos is not None:
                return x, cos, sin
    return None


def _find_half_rotated(value: ir.Value | None) -> ir.Value | None:
    concat = find_producer(value, "Concat")
    if concat is None or len(concat.inputs) != 2:
        return None
    negated = find_producer(concat.inputs[0], "Neg")
    upper = find_producer(negated.inputs[0], "Slice") if negated is not None else None
    lower = find_producer(concat.inputs[1], "Slice")
    if upper is None or lower is None or upper.inputs[0] is not lower.inputs[0]:
        return None
    x = lower.inputs[0]
    if x is None or x.shape is None or not isinstance(x.shape[-1], int):
        return None
    half = x.shape[-1] // 2
    starts, ends = read_constant(upper.inputs[1]), read_constant(lower.inputs[2])
    if starts is None or ends is None or starts.tolist() != [half] or ends.tolist() != [half]:
        return None
    return x


def _fuse(
    model: ir.Model,
    node: ir.Node,
    x: ir.Value,
    cos: ir.Value,
    sin: ir.Value,
    tables: dict[tuple[ir.Value, ir.Value], _Table],
) -> None:
    dims = expect_dims(x, 4, "the rotated tensor")
    num_heads = expect_static(dims[1], "the number of heads")
    head_dim = expect_static(dims[3], "the head dim")
    split = find_split_source(x)
    if split is None:
        raise NoMatchError("the heads of the rotated tensor are not split by Reshape and Transpose")
    if (cos, sin) not in tables:
        tables[cos, sin] = _make_table(model, cos, sin, head_dim, node)
    table = tables[cos, sin]
    merged = merge_heads(model, split, node, node)
    rotated = make_node(
        "RotaryEmbedding", [merged, table.rows, table.cos, table.sin], like=node, domain=CONTRIB
    )
    shape = make_constant(
        model, np.array([0, 0, num_heads, head_dim], np.int64), f"split_{num_heads}_{head_dim}"
    )
    apart = make_node("Reshape", [rotated.outputs[0], shape], like=node)
    back = make_node("Transpose", [apart.outputs[0]], like=node, attributes={"perm": [0, 2, 1, 3]})
    rotated.outputs[0].shape, rotated.outputs[0].type = merged.shape, merged.type
    apart.outputs[0].shape, apart.outputs[0].type = split.shape, split.type
    model.graph.insert_before(node, [rotated, apart, back])
    take_over(node.outputs[0], back.outputs[0])


def _make_table(
    model: ir.Model, cos: ir.Value, sin: ir.Value, head_dim: int, before: ir.Node
) -> _Table:
    """Make the half tables from cos and sin [B, 1, S, D], whose two halves must be the same."""
    halves = [_read_half(value, op) for value, op in ((cos, "Cos"), (sin, "Sin"))]
    angles, _ = halves[0]
    if halves[1][0] is not angles:
        raise NoMatchError("cos and sin come from different angles")
    dims = expect_dims(angles, 3, "the angles")
    if dims[2] != head_dim // 2:
        raise NoMatchError(f"the angles are {dims[2]} wide, half the head dim is {head_dim // 2}")
    made: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        made.append(ir.node(op, inputs, attributes=attributes))  # type: ignore[arg-type]
        return made[-1].outputs[0]

    flat = make_constant(model, np.array([-1, head_dim // 2], np.int64), f"rows_{head_dim // 2}")
    tables = []
    for op, (_, factor) in zip(("Cos", "Sin"), halves, strict=True):
        value = add(op, [angles])
        if factor != 1.0:
            dtype = angles.dtype or ir.DataType.FLOAT
            number = np.array(factor, dtype.numpy())
            constant = make_constant(model, number, f"angle_scale_{factor!r}_{dtype.short_name()}")
            value = add("Mul", [value, constant])
        tables.append(add("Reshape", [value, flat]))
    lengths = add("Shape", [angles], start=0, end=2)
    zero = make_constant(model, np.array(0, np.int64), "zero")
    one = make_constant(model, np.array(1, np.int64), "one")
    count = add("ReduceProd", [lengths], keepdims=0)
    rows = add("Reshape", [add("Range", [zero, count, one]), lengths])
    model.graph.insert_before(before, made)
    return _Table(cos=tables[0], sin=tables[1], rows=rows)


def _read_half(value: ir.Value, op: str) -> tuple[ir.Value, float]:
    """Return the angles [B, S, D / 2] and the factor of Unsqueeze(factor * op(Concat(f, f)))."""
    unsqueeze = expect_producer(value, f"the {op.lower()} of the rotation", "Unsqueeze")
    axes = read_constant(unsqueeze.inputs[1])
    if axes is None or axes.tolist() != [1]:
        raise NoMatchError(f"its {op.lower()} has its heads at {axes}")
    inner, factor = unsqueeze.inputs[0], 1.0
    scaled = find_producer(inner, "Mul")
    if scaled is not None:
        split = split_scalar(scaled)
        if split is None:
            raise NoMatchError(f"its {op.lower()} is scaled by no constant")
        inner, factor = split
    wave = expect_producer(inner, f"the {op.lower()} of the rotation", op)
    concat = expect_producer(wave.inputs[0], "the angles", "Concat")
    first, second = (*concat.inputs, None, None)[:2]
    if first is None or first is not second or len(concat.inputs) != 2 or read_axis(concat) == 0:
        raise NoMatchError("the angles of the two halves differ")
    return first, factor
