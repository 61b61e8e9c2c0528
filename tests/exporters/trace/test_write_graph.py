from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from exporters.trace.trace_part import write_graph


@pytest.fixture
def model() -> ir.Model:
    """Two products; one weight is large, the other small."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((300, 200), (200, 3))]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "w0"], ["h"]),
            onnx.helper.make_node("MatMul", ["h", "w1"], ["y"]),
        ],
        "products",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 300])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    return ir.serde.deserialize_model(
        onnx.helper.make_model(graph, opset_imports=opsets, producer_name="tests", ir_version=10)
    )


@pytest.mark.parametrize("external", [False, True])
def test_what_is_written_is_the_model(model: ir.Model, tmp_path: Path, external: bool) -> None:
    path = tmp_path / "new" / "model.onnx"
    write_graph(model, path, external_beyond=0 if external else 10**9)
    assert sorted(file.name for file in path.parent.iterdir()) == (
        ["model.onnx", "model.onnx.data"] if external else ["model.onnx"]
    )
    onnx.checker.check_model(path, full_check=True)
    written, expected = onnx.load(path), ir.serde.serialize_model(model)
    tensors = [
        {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
        for proto in (written, expected)
    ]
    assert tensors[0].keys() == tensors[1].keys() == {"w0", "w1"}
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    for proto in (written, expected):  # onnx-ir lists small initialisers among the values
        del proto.graph.initializer[:], proto.graph.value_info[:]
    assert written == expected
    x = np.ones((2, 300), np.float32)
    (came,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    np.testing.assert_allclose(came, x @ tensors[1]["w0"] @ tensors[1]["w1"], rtol=1e-4)


def test_the_model_in_memory_keeps_its_weights(model: ir.Model, tmp_path: Path) -> None:
    write_graph(model, tmp_path / "model.onnx")
    assert set(model.graph.initializers) == {"w0", "w1"}
