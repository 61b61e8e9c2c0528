"""Traces one graph of a model to ONNX: free dimensions by name, all others fixed, inputs alive."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from exporters.trace.graph_inputs import draw_inputs, is_live
from exporters.trace.graph_part import PAST, PRESENT, TOTAL, GraphPart, GraphTensor
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx_ir


# Weights beyond this go into a file beside the graph: protobuf holds 2 GB at most.
EXTERNAL_DATA_BYTES = 1_500_000_000
# Smaller ones stay in the message.
_LARGE_BYTES = 64 * 1024
# Field numbers of onnx.proto; the 2 says that bytes follow.
_GRAPH_TAG = bytes([7 << 3 | 2])  # of ModelProto
_INITIALIZER_TAG = bytes([5 << 3 | 2])  # of GraphProto
_RAW_DATA_TAG = bytes([9 << 3 | 2])  # of TensorProto


def write_graph(
    model: onnx_ir.Model, path: Path, *, external_beyond: int = EXTERNAL_DATA_BYTES
) -> None:
    """Write `model` to `path`, and its weights to `path`.data where they are beyond a size."""
    import onnx_ir

    weights = (value.const_value for value in model.graph.initializers.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(weight.nbytes for weight in weights if weight is not None) > external_beyond:
        onnx_ir.save(model, path, external_data=f"{path.name}.data")
        return
    _write_in_one_file(model, path)


def _write_in_one_file(model: onnx_ir.Model, path: Path) -> None:
    import onnx_ir

    initializers = model.graph.initializers
    large = {
        name: value.const_value
        for name, value in initializers.items()
        if value.const_value is not None and value.const_value.nbytes > _LARGE_BYTES
    }
    values = {name: initializers.pop(name) for name in large}
    try:
        message = onnx_ir.serde.serialize_model(model)
    finally:
        initializers.update(values)
    body = message.graph.SerializeToString()
    message.ClearField("graph")
    heads = {name: _serialize_head(tensor, name) for name, tensor in large.items()}
    lengths = {name: len(heads[name]) + tensor.nbytes for name, tensor in large.items()}
    fields = (len(_INITIALIZER_TAG) + len(_encode(n)) + n for n in lengths.values())
    with path.open("wb") as file:
        file.write(message.SerializeToString())
        file.write(_GRAPH_TAG + _encode(len(body) + sum(fields)) + body)
        for name, tensor in large.items():
            file.write(_INITIALIZER_TAG + _encode(lengths[name]))
            file.write(heads[name])
            file.write(tensor.tobytes())


def _serialize_head(tensor: onnx_ir.TensorProtocol, name: str) -> bytes:
    """Return a tensor's message as far as the length of its content, which comes last."""
    from onnx import TensorProto

    message = TensorProto(name=name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    written: bytes = message.SerializeToString() + _RAW_DATA_TAG + _encode(tensor.nbytes)
    return written


def _encode(number: int) -> bytes:
    """Return a length as protobuf writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


_SUM = re.compile(rf"\b(?:{PAST} \+ {PRESENT}|{PRESENT} \+ {PAST})\b")


def name_dims(model: onnx_ir.Model) -> None:
    """Call the sum of the past and the present length by its name, everywhere in the graph."""
    for value in _list_values(model):
        if value.shape is None:
            continue
        for axis, dim in enumerate(value.shape):
            text = str(dim)
            if not isinstance(dim, int) and text != _SUM.sub(TOTAL, text):
                value.shape[axis] = _SUM.sub(TOTAL, text)


def check_signature(model: onnx_ir.Model, part: GraphPart) -> None:
    """Raise NirvanaError unless the graph has the inputs and outputs of `part`, in their order."""
    for what, found, promised in (
        ("inputs", model.graph.inputs, part.inputs),
        ("outputs", model.graph.outputs, part.outputs),
    ):
        came = {str(value.name): _describe(value) for value in found}
        expected = {tensor.name: _promise(tensor) for tensor in promised}
        for name in expected.keys() | came.keys():
            if came.get(name) != expected.get(name):
                raise NirvanaError(
                    f"The {what} of {part.name} should have {name} as "
                    f"{expected.get(name, 'nothing')}, the traced graph has "
                    f"{came.get(name, 'nothing')}. This model cannot be exported."
                )
        if list(came) != list(expected):
            raise NirvanaError(
                f"The {what} of {part.name} should be {', '.join(expected)}, in this order; the "
                f"traced graph has {', '.join(came)}."
            )
    for value in model.graph.inputs:
        if not value.uses() and is_live(part.module, part.inputs, str(value.name)):
            raise NirvanaError(
                f"The input {value.name} of {part.name} leads nowhere in the traced graph, though "
                "the model depends on it. This model cannot be exported."
            )


def _list_values(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    of_nodes = (value for node in model.graph.all_nodes() for value in node.outputs)
    return [*model.graph.inputs, *of_nodes]


def _describe(value: onnx_ir.Value) -> str:
    assert value.shape is not None
    return f"{value.dtype} [{', '.join(str(dim) for dim in value.shape)}]"


def _promise(tensor: GraphTensor) -> str:
    import onnx_ir
    import torch

    names = {torch.int64: "INT64", torch.float32: "FLOAT"}
    names |= {torch.float16: "FLOAT16", torch.bfloat16: "BFLOAT16"}
    dtype = onnx_ir.DataType[names[tensor.dtype]]
    return f"{dtype} [{', '.join(str(dim) for dim in tensor.shape)}]"


_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def widen_bfloat16_steps(model: onnx_ir.Model) -> None:
    """Rewrite each arithmetic node of bfloat16 in `model`, in place.

    A product of two bfloat16 numbers, rounded once, is what torch's own kernels give.
    """
    import onnx_ir as ir

    for node in list(model.graph):
        if node.op_type not in _ARITHMETIC or node.outputs[0].dtype != ir.DataType.BFLOAT16:
            continue
        wide = [ir.node("Cast", [value], {"to": ir.DataType.FLOAT}) for value in node.inputs]
        for number, cast in enumerate(wide):
            cast.outputs[0].dtype = ir.DataType.FLOAT
            cast.outputs[0].shape = node.inputs[number].shape  # type: ignore[union-attr]
            node.replace_input_with(number, cast.outputs[0])
        model.graph.insert_before(node, wide)
        result = node.outputs[0]
        narrow = ir.node("Cast", [result], {"to": ir.DataType.BFLOAT16})
        narrow.outputs[0].dtype, narrow.outputs[0].shape = ir.DataType.BFLOAT16, result.shape
        result.dtype = ir.DataType.FLOAT
        users = [(use.node, use.idx) for use in result.uses() if use.node is not narrow]
        for user, number in users:
            user.replace_input_with(number, narrow.outputs[0])
        model.graph.insert_after(node, [narrow])


# The traced shape. A length of 1 would be specialised into the graph; none is like another, so that
# none is taken for another.
TRACED_SIZES = {"batch": 3, "sequence": 5, "past_sequence": 11, "encoder_sequence": 7}


def trace_graph(part: GraphPart, opset: int) -> onnx_ir.Model:
    """Return the graph of `part` in memory, in the precision of its module, and with its weights.

    The model must have been loaded with eager attention: traced that way, the graph is the leanest
    for TensorRT, and the only one whose attentions all fuse when a layer has one head left.

    Raises:
        NirvanaError: torch.onnx refuses the module, the graph has not the inputs and outputs that
            the part promises, or an input on which the module depends leads nowhere.
    """
    inputs = draw_inputs(part.inputs, TRACED_SIZES, padding="left")
    free = tuple(
        {axis: dim for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}
        for tensor in part.inputs
    )
    # The exporter prints its progress, and a warning for every torchvision operator it lacks.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                part.module,
                inputs,
                input_names=[tensor.name for tensor in part.inputs],
                output_names=[tensor.name for tensor in part.outputs],
                dynamic_shapes=(free,),  # of *inputs
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise NirvanaError(
                f"torch.onnx cannot export the graph {part.name} of {_name_model(part)}: "
                f"{_find_reason(error)}"
            ) from error
    assert program is not None
    name_dims(program.model)
    if all(weight.dtype == torch.float32 for weight in part.module.parameters()):
        widen_bfloat16_steps(program.model)
    check_signature(program.model, part)
    return program.model


def _name_model(part: GraphPart) -> str:
    return type(getattr(part.module, "model", part.module)).__name__


def _find_reason(error: BaseException) -> str:
    """Return the first line of what an exporter's error was caused by; its own is advice."""
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
