"""Holds a graph against ONNX's own rules: the full check, shape inference included."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from exporters.surgeon.weightless import without_weights
from pruning.errors import NirvanaError


def check_graph(model: ir.Model) -> None:
    """Raise NirvanaError unless a graph passes the check.

    Weights are checked as inputs of their type and shape, so that gigabytes need not be written
    and read again for it.
    """
    try:
        with without_weights(model.graph, as_inputs=True):
            proto = ir.to_proto(model)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        cause = error.__cause__ or error
        raise NirvanaError(
            f"The pruned graph cannot be written down: {''.join(str(cause).splitlines()[:1])}. Is "
            "a name or an attribute of the dense graph damaged? Export it again."
        ) from error
    _name_domains(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NirvanaError(
            f"The pruned graph does not pass ONNX's check, and was not written: {error} Was the "
            "dense graph valid?"
        ) from error


def _name_domains(proto: onnx.ModelProto) -> None:
    """Let the check skip an operator of ONNX Runtime's that lies in ONNX's own domain, in place."""
    found = [node for node in proto.graph.node if node.op_type == _RUNTIME_NORM and not node.domain]
    for node in found:
        node.domain = "com.microsoft"
    if found and all(entry.domain != "com.microsoft" for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


_RUNTIME_NORM = "SimplifiedLayerNormalization"
