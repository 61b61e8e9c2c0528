"""Names the free dimensions of a traced graph, and compares its signature with the promised one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exporters.trace.graph_part import PAST, PRESENT, TOTAL, GraphPart, GraphTensor
from exporters.trace.part_outputs import is_live
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx_ir

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
