"""Turns a float32 graph into one whose types are float16, for strongly typed engines.

Inputs and outputs keep their types. The types are changed by onnxruntime's converter; what it would
alter without a word is handled here: masks that float16 cannot hold, and weights that overflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pruning.errors import MissingExtraError, NirvanaError

if TYPE_CHECKING:
    import onnx

HALF_MAX = 65504.0

# Stands for a float32 "minus infinity" in a mask. At -65504 a masked score overflows to -inf as
# soon as it is added to a score below -16, and a row with nothing but masked tokens becomes NaN.
# exp(-30000) is 0 all the same.
HALF_MASK = 30000.0


def convert_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float16 copy of `model`, whose inputs and outputs keep their types.

    Raises NirvanaError when a weight is beyond float16, MissingExtraError without onnxruntime.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ModuleNotFoundError:
        raise MissingExtraError("onnxruntime, whose float16 converter is used,", "cpu") from None
    from onnx import ModelProto, inliner

    copy = ModelProto()
    copy.CopyFrom(model)
    if copy.functions:
        copy = inliner.inline_local_functions(copy)
    for tensor in _float_tensors(copy.graph):
        _fit_into_half(tensor)
    converted: ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    return converted


def _float_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the float32 constants of a graph and of its subgraphs: initialisers and attributes."""
    from onnx import TensorProto

    candidates = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                candidates.append(attribute.t)
            if attribute.HasField("g"):
                yield from _float_tensors(attribute.g)
    yield from (tensor for tensor in candidates if tensor.data_type == TensorProto.FLOAT)


def _fit_into_half(tensor: onnx.TensorProto) -> None:
    """Replace in place a scalar beyond float16 by a mask value. Return None; refuse a weight."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    too_large = np.isfinite(values) & (np.abs(values) > HALF_MAX)
    if not too_large.any():
        return
    if values.size > 1:
        raise NirvanaError(
            f"{tensor.name or 'a constant'} has {int(too_large.sum())} values beyond float16 "
            f"(largest magnitude {np.abs(values[too_large]).max():.3g}, float16 ends at "
            f"{HALF_MAX:.0f}). Build this model with precision fp32."
        )
    masked = np.full_like(values, np.copysign(HALF_MASK, values))
    tensor.CopyFrom(numpy_helper.from_array(masked, tensor.name))
