"""Runs an ONNX file in ONNX Runtime on the CPU, as it is or with what its blocks give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from exporters.compare.artefact import Array
from exporters.compare.onnx_blocks import BLOCK_OUTPUT, add_block_outputs
from exporters.graphs.onnx_files import explain_malformed
from exporters.graphs.read_structure import read_structure
from exporters.graphs.trial_session import require_loadable
from exporters.onnx_session import first_line, make_options, open_session
from exporters.trace.graph_part import GraphTensor
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx


_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_MAX_BYTES = 2**31 - 1


def round_in_float(model: ir.Model) -> None:
    """Make the graph compute in float32 with half-precision values, in place.

    Raises:
        NirvanaError: in float32 it has more than the 2 GB that a graph in memory can have.
    """
    graph = model.graph
    _check_size(graph)
    for value in [*graph.inputs, *graph.initializers.values()]:
        _widen_rounded_graph(value)
    for node in list(graph):
        _widen_attributes(node)
        for value in node.outputs:
            if value.dtype in _HALVES:
                _round_output(graph, node, value)


def _widen_rounded_graph(value: ir.Value) -> None:
    if value.dtype not in _HALVES:
        return
    value.dtype = ir.DataType.FLOAT
    if value.const_value is not None:
        value.const_value = _to_float(value.const_value, str(value.name))


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _HALVES:
            node.attributes[name] = ir.AttrTensor(name, _to_float(attribute.as_tensor(), name))


def _round_output(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Put a rounding between a node and those that take its output, in place."""
    name, dtype = str(value.name), value.dtype
    assert dtype is not None
    if node.op_type == "Cast":  # it rounds as it is
        rounding, rounded = node, value
    else:
        value.dtype = ir.DataType.FLOAT
        rounding, rounded = _cast_after(graph, node, value, dtype, f"{name}_rounded")
    back, widened = _cast_after(graph, rounding, rounded, ir.DataType.FLOAT, name)
    for user, index in list(value.uses()):
        if user not in (rounding, back):
            user.replace_input_with(index, widened)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = widened
    value.name = f"{name}_exact"


def _cast_after(
    graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType, name: str
) -> tuple[ir.Node, ir.Value]:
    cast = ir.node("Cast", [value], attributes={"to": dtype})
    graph.insert_after(node, cast)
    (output,) = cast.outputs
    output.name, output.dtype, output.shape = name, dtype, value.shape
    return cast, output


def _to_float(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    values = tensor.numpy()
    if values.dtype not in (np.float16, ml_dtypes.bfloat16):
        raise NirvanaError(f"{name} is of type {values.dtype}, expected float16 or bfloat16.")
    return ir.tensor(values.astype(np.float32), name=name)


def _check_size(graph: ir.Graph) -> None:
    weights = [value.const_value for value in graph.initializers.values()]
    size_bytes = sum(2 * weight.nbytes for weight in weights if weight is not None)
    if size_bytes > _MAX_BYTES:
        raise NirvanaError(
            f"in float32 the graph has {size_bytes} bytes of weights; a half-precision graph is "
            f"compared on a CPU up to {_MAX_BYTES}. Compare it on the GPU that it is for."
        )


_DTYPES = {
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}


class OnnxGraph:
    """An ONNX file in a session that is opened at its first use.

    One in half precision runs as a CPU can run it: see `rounded_graph`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: object = None

    @property
    def _session(self) -> Any:
        if self._opened is None:
            require_loadable(self.path)
            rounded = load_rounded(self.path)
            source = self.path if rounded is None else rounded.SerializeToString()
            self._opened = _open(source, self.path)
        return self._opened

    @property
    def inputs(self) -> tuple[GraphTensor, ...]:
        """List what it takes."""
        return tuple(_read_input(self.path, value) for value in self._session.get_inputs())

    @property
    def output_names(self) -> tuple[str, ...]:
        """List what it gives."""
        return tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; floats as float32."""
        return _run(self._session, self.path, inputs)

    def run_blocks(self, inputs: Mapping[str, Array]) -> dict[int, Array]:
        """Return what each block gives to the next, by the block's number."""
        import onnx

        model = load_rounded(self.path) or onnx.load(str(self.path), load_external_data=False)
        numbers = add_block_outputs(model)
        session = _open(model.SerializeToString(), self.path)
        outputs = _run(session, self.path, inputs)
        return {number: outputs[f"{BLOCK_OUTPUT}{number}"] for number in numbers}


def load_rounded(path: Path) -> onnx.ModelProto | None:
    """Return a half-precision graph as one that a CPU runs; None for any other graph."""
    import onnx_ir

    from exporters.graphs.read_onnx import load_ir

    if not _has_half_weights(path):
        return None
    with explain_malformed(path):
        model = load_ir(path)
        try:
            round_in_float(model)
        except NirvanaError as error:
            raise NirvanaError(f"{path}: {error}") from error
        return onnx_ir.to_proto(model)


def _has_half_weights(path: Path) -> bool:
    """Return whether a weight is float16 or bfloat16."""
    import onnx

    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(t.data_type in halves for t in read_structure(path).graph.initializer)


def _open(model: Path | bytes, path: Path) -> Any:
    """Open a session that takes little memory: the source's weights are in memory, too."""
    options = make_options()
    # No second layout of the weights, no pool for what is short.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    return open_session(model, name=str(path), options=options)


def _run(session: Any, path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    names = [value.name for value in session.get_outputs()]
    try:
        values = session.run(names, dict(inputs))
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise NirvanaError(
            f"{path} could not run {shapes}: {first_line(error)} If the model's rows are shorter, "
            "say so by max_length."
        ) from error
    return {name: _widen(value) for name, value in zip(names, values, strict=True)}


def _widen(value: object) -> Array:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _read_input(path: Path, value: Any) -> GraphTensor:
    if value.type not in _DTYPES:
        raise NirvanaError(
            f"{path} takes {value.name} as {value.type}; inputs can be {', '.join(_DTYPES)}."
        )
    shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
    return GraphTensor(name=value.name, dtype=_DTYPES[value.type], shape=shape)
