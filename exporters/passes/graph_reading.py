"""Reads structure out of a graph: producers, constants, and operators in a row.

A function named `expect_*` raises NoMatchError where the graph is otherwise than expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from exporters.passes.graph_pass import NoMatchError, Refusal, use_contrib


def name_node(node: ir.Node) -> str:
    """Name a node as a reader finds it: by its first output where it has no name of its own."""
    return str(node.name or node.outputs[0].name)


def find_producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return what makes `value`, if it is one of `op_types`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def expect_producer(value: ir.Value | None, what: str, *op_types: str) -> ir.Node:
    """Return what makes `value`."""
    node = find_producer(value, *op_types)
    if node is None:
        made_by = value.producer() if value is not None else None
        raise NoMatchError(
            f"{what} comes from {made_by.op_type if made_by else 'no node'}, "
            f"expected {' or '.join(op_types)}"
        )
    return node


def read_constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """Return the constant that `value` holds, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def read_scalar(value: ir.Value | None) -> float | None:
    """Return the one number that `value` holds, or None."""
    constant = read_constant(value) if value is not None and _is_small(value) else None
    return float(constant.reshape(())) if constant is not None and constant.size == 1 else None


def _is_small(value: ir.Value) -> bool:
    return value.shape is None or all(dim == 1 for dim in value.shape)


def split_scalar(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return the tensor and the number of a Mul or Add of the two, in either order."""
    first, second = node.inputs
    for tensor, other in ((first, second), (second, first)):
        number = read_scalar(other)
        if number is not None and tensor is not None:
            return tensor, number
    return None


def read_perm(node: ir.Node) -> tuple[int, ...]:
    """Return the permutation of a Transpose."""
    attribute = node.attributes.get("perm")
    return tuple(attribute.as_ints()) if attribute is not None else ()


def read_axis(node: ir.Node, default: int = -1) -> int:
    """Return the attribute `axis`."""
    attribute = node.attributes.get("axis")
    return attribute.as_int() if attribute is not None else default


def expect_dims(value: ir.Value, rank: int, what: str) -> list[int | str | None]:
    """Return the dims of `value`: a number, a symbol, or None each."""
    if value.shape is None or len(value.shape) != rank:
        raise NoMatchError(f"{what} should have {rank} dims, it has the shape {value.shape}")
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def expect_static(dim: int | str | None, what: str) -> int:
    """Return a dim that must be a number."""
    if not isinstance(dim, int):
        raise NoMatchError(f"{what} is not static but {dim}")
    return dim


def make_constant(model: ir.Model, array: np.ndarray[Any, Any], name: str) -> ir.Value:
    """Register a constant as an initializer, in place; the same name gives the same one."""
    known = model.graph.initializers.get(name)
    if known is not None:
        return known
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )
    model.graph.register_initializer(value)
    return value


def make_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    like: ir.Node,
    domain: str = "",
    attributes: dict[str, Any] | None = None,
    num_outputs: int = 1,
) -> ir.Node:
    """Make a node that stands for `like`: with its metadata, named after its first output."""
    stem = like.outputs[0].name
    return ir.node(
        op_type,
        list(inputs),
        attributes=attributes or {},
        domain=domain,
        outputs=[
            ir.Value(name=f"{stem}_{op_type}" + (f"_{i}" if i else "")) for i in range(num_outputs)
        ],
        name=f"{like.name or stem}_{op_type}",
        metadata_props=dict(like.metadata_props),
    )


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` be used wherever `old` was, graph outputs included; it takes name and shape."""
    name, new.shape, new.type = old.name, old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = f"{name}_replaced", name


Place = TypeVar("Place")


def fuse_each(
    model: ir.Model,
    places: Iterable[tuple[ir.Node, Place]],
    fuse: Callable[[ir.Model, Place], None],
) -> tuple[int, list[Refusal]]:
    """Fuse in place what fits of `places`, each with the node that it is told by.

    Returns:
        how many were fused, and the others with their reasons.
    """
    refusals: list[Refusal] = []
    num_fused = 0
    for node, place in places:
        try:
            fuse(model, place)
            num_fused += 1
        except NoMatchError as error:
            refusals.append(Refusal(node=name_node(node), reason=str(error)))
    if num_fused:
        use_contrib(model)
    return num_fused, refusals
