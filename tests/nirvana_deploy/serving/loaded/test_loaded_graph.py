from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nirvana_deploy.serving.loaded.onnx_model import LoadedGraph
from pruning.errors import NirvanaError


def save_identity(path: Path, kind: int) -> Path:
    tensors = [helper.make_tensor_value_info(name, kind, [1]) for name in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_inputs_come_in_the_types_of_the_graph(tmp_path: Path) -> None:
    graph = LoadedGraph(save_identity(tmp_path / "x.onnx", TensorProto.DOUBLE))
    assert graph.run({"x": [1], "unknown": [2]})["y"].dtype == np.float64


def test_a_type_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    path = save_identity(tmp_path / "x.onnx", TensorProto.BFLOAT16)
    with pytest.raises(NirvanaError, match=r"input 'x' is tensor\(bfloat16\), which numpy has no"):
        LoadedGraph(path)
