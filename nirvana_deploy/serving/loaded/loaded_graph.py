"""A graph in ONNX Runtime that is given arrays by name, and gives them so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nirvana_deploy.serving.graph_decoder import open_session
from pruning.errors import NirvanaError

_NUMPY_TYPES: dict[str, Any] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


class LoadedGraph:
    """An open graph; `inputs` has the numpy type of each by name."""

    def __init__(self, onnx_path: Path) -> None:
        """Open the graph; for what it raises see `open_session`."""
        self._session = open_session(onnx_path)
        self.inputs: dict[str, Any] = {
            node.name: _find_type(onnx_path, node) for node in self._session.get_inputs()
        }
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, named: dict[str, Any]) -> dict[str, Any]:
        """Return all outputs; of what is given it takes the inputs that it has."""
        feeds = {name: np.asarray(named[name], dtype) for name, dtype in self.inputs.items()}
        arrays = self._session.run(self._outputs, feeds)
        return dict(zip(self._outputs, arrays, strict=True))


def _find_type(onnx_path: Path, node: Any) -> Any:
    if node.type not in _NUMPY_TYPES:
        raise NirvanaError(
            f"{onnx_path}: the input {node.name!r} is {node.type}, which numpy has no type for. "
            "Export the model again in fp32 or fp16."
        )
    return _NUMPY_TYPES[node.type]
