"""Damages one weight of a graph, as a wrong export would."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def change_weight(source: Path, out: Path, part_of_name: str, factor: float) -> Path:
    """Scale the first initialiser whose name holds `part_of_name`, in a copy at `out`."""
    model = onnx.load(source)
    tensor = next(t for t in model.graph.initializer if part_of_name in t.name)
    values = (numpy_helper.to_array(tensor) * factor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)
    return out
