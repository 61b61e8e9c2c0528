"""Reads the values of a tensor of a graph, one tensor at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]


def read_array(tensor: ir.TensorProtocol) -> Array:
    """Return a tensor's values; of an external one by reading its bytes and no others.

    A mapped file would count as memory of this process as far as it was read.
    """
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.itemsize < 1:
        return np.ascontiguousarray(tensor.numpy())
    shape = [int(n) for n in tensor.shape.numpy()]
    values: Array = np.fromfile(
        tensor.path, tensor.dtype.numpy(), math.prod(shape), offset=tensor.offset or 0
    )
    return values.reshape(shape)
