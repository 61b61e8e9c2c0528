"""Graphs whose bytes, types or edges are altered are refused with the weight or the node."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.graphs.graph_structure import inspect_onnx
from exporters.graphs.onnx_files import explain_malformed
from exporters.graphs.read_onnx import read_onnx
from pruning.errors import NirvanaError


def _write(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    weight = numpy_helper.from_array(np.ones((4, 8), "float32"), "weight")
    shape = numpy_helper.from_array(np.array([2, -1]), "shape")
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="multiply"),
        helper.make_node("Reshape", ["product", "shape"], ["y"], name="reshape"),
    ]
    graph = helper.make_graph(nodes, "g", given, made, [weight, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def _cut(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-3]


def _retype(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].data_type = TensorProto.INT32


def _resize(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, "the weight weight cannot be read: "),
        (_retype, "the weight shape cannot be read: "),
        (_resize, "(the weight weight cannot be read|not a valid ONNX file)"),
    ],
)
def test_a_weight_of_other_bytes_than_its_shape_is_named(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / "x.onnx", change)
    for read in (read_onnx, inspect_onnx):
        with pytest.raises(NirvanaError, match=rf"x\.onnx.*{message}"):
            read(path)


def test_what_cannot_be_followed_names_the_node(tmp_path: Path) -> None:
    model = read_onnx(_write(tmp_path / "x.onnx", lambda _: None))

    def follow() -> None:
        for node in model.graph:
            _ = node.inputs[7]

    with (
        pytest.raises(NirvanaError, match=r"x\.onnx: node multiply \(MatMul\): the graph is malfo"),
        explain_malformed(tmp_path / "x.onnx"),
    ):
        follow()
