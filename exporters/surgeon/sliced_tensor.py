"""A tensor of which indices stay along an axis: read, cut and forgotten when it is asked for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.graphs.tensor_values import Array, read_array
from exporters.surgeon.unit_cut import UnitCut

# Integers of the same width: numpy takes slices of them fast, and knows no bfloat16.
_INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class SlicedTensor(ir.LazyTensor):
    """What stays of `base` along `axis`."""

    def __init__(self, base: ir.TensorProtocol, axis: int, cut: UnitCut, name: str) -> None:
        shape = [int(n) for n in base.shape.numpy()]
        assert shape[axis] == cut.total, (name, shape, axis, cut.total)
        shape[axis] = cut.count
        self.base, self.axis, self.kept = base, axis, cut.kept

        def compute() -> ir.TensorProtocol:
            return ir.Tensor(self._take(), dtype=base.dtype, name=name)

        super().__init__(compute, base.dtype, ir.Shape(shape), name=name, cache=False)

    def _take(self) -> Array:
        whole = read_array(self.base)
        integer = _INTEGERS[whole.itemsize]
        return whole.view(integer).take(self.kept, axis=self.axis).view(whole.dtype)
