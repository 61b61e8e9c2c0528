"""Computes in float32 what a float32 model computes in bfloat16, and rounds the result as it does.

Falcon makes its ALiBi mask so, whatever its weights are; few runtimes multiply bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

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
