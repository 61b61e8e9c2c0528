"""Reads an ONNX file whose weights stay on the disk, and refuses what is not whole.

External data is not mapped and not read here; where it lies is checked.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import onnx_ir as ir

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
        model = ir.load(path)
    except Exception as error:  # whatever the parser meets in a file of any kind
        first_line = "".join(str(error).strip().splitlines()[:1]).rstrip(".")
        raise NirvanaError(
            f"{path} is not a valid ONNX file: {first_line}. Export it again."
        ) from error
    if not len(model.graph):
        raise NirvanaError(f"{path} is not a valid ONNX file: it has no nodes. Export it again.")
    _check_structure(model, path)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            _check_external(value.const_value, path)
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


def _check_external(tensor: ir.ExternalTensor, path: Path) -> None:
    location = PurePosixPath(str(tensor.location).replace("\\", "/"))
    folder = path.parent.resolve()
    file = folder / location
    inside = file.resolve().is_relative_to(folder)
    if location.is_absolute() or ".." in location.parts or not inside:
        raise NirvanaError(
            f"{path}: the data of {tensor.name} is said to be in {tensor.location}, outside of the "
            "file's folder. Such files are not read; put the data beside the graph."
        )
    if not file.is_file():
        raise NirvanaError(
            f"{path}: expected the data of {tensor.name} in {file}, found no file there. Copy it "
            "beside the graph."
        )
    need = (tensor.offset or 0) + tensor.nbytes
    size = file.stat().st_size
    if size < need or (tensor.length is not None and tensor.length != tensor.nbytes):
        raise NirvanaError(
            f"{path}: the data of {tensor.name} should end at byte {need:,} of {file.name}, which "
            f"has {size:,}: it was cut short, or is of another graph. Copy it again."
        )
