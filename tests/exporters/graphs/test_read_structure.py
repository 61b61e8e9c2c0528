from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exporters.graphs.load_graph import load_graph
from exporters.graphs.read_structure import read_structure
from pruning.errors import NirvanaError


def make_model() -> onnx.ModelProto:
    """A product with a large and a sum with a small weight, and attributes of several kinds."""
    large = numpy_helper.from_array(np.ones((200, 300), np.float32), "large")
    small = numpy_helper.from_array(np.ones(300, np.float32), "small")
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "large"], ["h"], alpha=0.5, transB=0),
        onnx.helper.make_node("Add", ["h", "small"], ["y"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", 200), ("y", 300))
    ]
    graph = onnx.helper.make_graph(nodes, "products", ends[:1], ends[1:], [large, small])
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, producer_name="tests", ir_version=10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(make_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_all_is_read_but_large_weights(path: Path) -> None:
    expected = make_model()
    expected.graph.initializer[0].raw_data = b""
    assert read_structure(path) == expected
    assert load_graph(path) == expected


def test_external_weights_stay_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(make_model(), path, save_as_external_data=True, location="model.onnx.data")
    assert load_graph(path) == onnx.load(path, load_external_data=False)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(NirvanaError, match=r"model\.onnx\.data is missing: model\.onnx keeps"):
        load_graph(path)


def test_external_weights_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(make_model(), path, save_as_external_data=True, location="model.onnx.data")
    weights = tmp_path / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(NirvanaError, match=r"up to byte .* of model\.onnx\.data, which has"):
        load_graph(path)


@pytest.mark.parametrize("kept_bytes", [100_000, 239_000, 3])
def test_a_file_that_was_cut_off_is_refused(path: Path, kept_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(NirvanaError, match=r"model.onnx is not a valid ONNX file: it is cut off"):
        load_graph(path)


def test_a_weight_of_another_length_than_its_shape_is_refused(path: Path) -> None:
    model = make_model()
    model.graph.initializer[0].raw_data = bytes(200 * 300 * 4 - 8)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(NirvanaError, match=r"weight large should have 240000 .* has 239992"):
        load_graph(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a model", "of kind 6"), (b"\x08" + b"\xff" * 20, "longer than 64 bits")],
)
def test_what_is_no_message_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(NirvanaError, match=message):
        read_structure(path)
