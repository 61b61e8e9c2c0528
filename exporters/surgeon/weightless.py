"""A graph without its weights, for a while: to write it down, or to check it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from exporters.graphs.tensor_values import read_array

_SMALL_BYTES = 1024  # such constants stay: shapes, scalars


def list_weights(graph: ir.Graph) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Return the initializers that are weights, with their tensors."""
    return [
        (value, value.const_value)
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and value.const_value.nbytes >= _SMALL_BYTES
        and not value.is_graph_output()
    ]


def take_in_constants(graph: ir.Graph) -> None:
    """Read what lies beside the graph and is no weight, in place: it is written with the graph."""
    weights = {value for value, _ in list_weights(graph)}
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor) and value not in weights:
            array = read_array(value.const_value)
            value.const_value = ir.Tensor(array, dtype=value.const_value.dtype, name=value.name)


@contextmanager
def without_weights(graph: ir.Graph, *, as_inputs: bool = False) -> Iterator[None]:
    """Take the weights out of a graph until the block ends; `as_inputs` makes inputs of them."""
    weights = [value for value, _ in list_weights(graph)]
    for value in weights:
        del graph.initializers[value.name or ""]
        if as_inputs:
            graph.inputs.append(value)
    try:
        yield
    finally:
        for value in weights:
            if as_inputs:
                graph.inputs.remove(value)
            graph.register_initializer(value)
