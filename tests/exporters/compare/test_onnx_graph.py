from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from exporters.onnx_session import open_session
from pruning.errors import NirvanaError


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("domain", ["", "my.ops"])
def test_an_operator_that_is_not_known_is_named_with_its_node(
    domain: str, in_memory: bool, tmp_path: Path
) -> None:
    node = helper.make_node("Foo", ["x"], ["y"], name="the_node", domain=domain)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.ops", 1)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(NirvanaError, match=r"cannot be loaded by ONNX Runtime") as caught:
        open_session(model.SerializeToString() if in_memory else path, name=str(path))
    assert "Foo" in str(caught.value) and "the_node" in str(caught.value)
