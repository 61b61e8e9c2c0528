"""Reads an ONNX file whose weights stay on the disk, and refuses what is not whole.

External data is not mapped and not read here; where it lies is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from exporters.graphs.node_reading import name_node
from exporters.graphs.onnx_files import check_whole, resolve_beside
from exporters.graphs.read_structure import read_structure
from pruning.errors import NirvanaError

# Older opsets say axes and sizes otherwise (Squeeze, Split, Softmax).
OLDEST_OPSET = 13


def read_onnx(path: Path) -> ir.Model:
    """Return the graph of an ONNX file, whose external data is whole and beside it.

    Raises:
        NirvanaError: no file, no ONNX, cyclic, too old, or its external data is missing, cut short,
            or outside of its folder.
    """
    if not path.is_file():
        raise NirvanaError(f"Expected an ONNX file at {path}, found none.")
    try:
        model = load_ir(path)
    except NirvanaError:
        raise
    except Exception as error:  # whatever the parser meets in a file of any kind
        first_line = "".join(str(error).strip().splitlines()[:1]).rstrip(".")
        raise NirvanaError(
            f"{path} is not a valid ONNX file: {first_line}. Export it again."
        ) from error
    if not len(model.graph):
        raise NirvanaError(f"{path} is not a valid ONNX file: it has no nodes. Export it again.")
    _check_structure(model, path)
    for name, tensor in _list_inline(model):
        _check_inline(tensor, name, path)
    return model


def load_ir(path: Path) -> ir.Model:
    """Load a graph whose files are whole; external data behind a link is found where it is.

    Raises:
        NirvanaError: see `check_whole`.
    """
    try:
        structure = read_structure(path)
    except NirvanaError as error:
        raise NirvanaError(f"{path} is not a valid ONNX file: {error} Export it again.") from error
    check_whole(path, structure)
    model = ir.load(path)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = resolve_beside(path, str(tensor.location), str(tensor.name))
        if file != path.parent.resolve() / str(tensor.location):  # which onnx_ir would refuse
            value.const_value = ir.ExternalTensor(
                file.name,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=str(tensor.name),
                base_dir=file.parent,
            )
    return model


def _check_structure(model: ir.Model, path: Path) -> None:
    opset = model.graph.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        raise NirvanaError(
            f"{path} is of opset {opset}; {OLDEST_OPSET} or newer is needed. Export it again, or "
            "convert it with onnx.version_converter."
        )
    made: set[ir.Value] = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            raise NirvanaError(
                f"{path}: node {node.name or '(unnamed)'} ({node.op_type}) holds a graph of its "
                "own, as optimum's merged decoders do. Give one graph for the prompt and one for "
                "the next tokens, or one that takes both."
            )
        for value in node.inputs:
            if value is not None and value not in made:
                raise NirvanaError(
                    f"{path}: node {node.name or '(unnamed)'} ({node.op_type}) uses {value.name}, "
                    "which no node before it makes: the graph is cyclic or malformed."
                )
        made.update(node.outputs)


_GRAPHS = frozenset((ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS))


def _list_inline(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtoTensor]]:
    """Yield the tensors whose values are in the file: of initializers and of attributes."""
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.TensorProtoTensor):
            yield f"the weight {name}", value.const_value
    for node in model.graph:
        for attribute in node.attributes.values():
            if isinstance(attribute.value, ir.TensorProtoTensor):
                yield f"{attribute.name} of {name_node(node)}", attribute.value


def _check_inline(tensor: ir.TensorProtoTensor, name: str, path: Path) -> None:
    """Refuse a tensor of a type that is not known, or whose values are not as many as it says."""
    try:
        dims = [int(n) for n in tensor.shape.numpy()]
        if min(dims, default=0) < 0:
            raise ValueError(f"it has the dimensions {dims}")
        if tensor.dtype != ir.DataType.STRING:
            found = len(tensor.tobytes())
            if found != tensor.nbytes:
                raise ValueError(f"its values have {found:,} bytes, expected {tensor.nbytes:,}")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        reason = "".join(str(error).splitlines()[:1]).rstrip(".")
        raise NirvanaError(
            f"{path} is not a valid ONNX file: {name} cannot be read: {reason}. Export it again."
        ) from error
