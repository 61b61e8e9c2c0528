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
    with without_weights(model.graph, as_inputs=True):
        proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NirvanaError(
            f"The pruned graph does not pass ONNX's check, and was not written: {error} Was the "
            "dense graph valid?"
        ) from error
