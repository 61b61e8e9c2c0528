import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from exporters.precision.half_precision import HALF_MASK, convert_graph
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_models import export_bert, make_batch


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return onnx.load(export_bert(tmp_path_factory.mktemp("half") / "model.onnx", (4, 1)))


def convert_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    half = ir.from_proto(model)
    convert_graph(half, ir.DataType.FLOAT16, half_caches=False)
    return ir.to_proto(half)


def run(model: onnx.ModelProto, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    return torch.from_numpy(session.run(None, feeds)[0])


def test_logits_agree_on_padded_batches(bert: onnx.ModelProto) -> None:
    half = convert_to_half(bert)
    for batch, length in ((3, 12), (1, 16), (5, 31)):
        inputs = make_batch(batch, length)
        # fp16 keeps 11 bits; logits here are below 1.
        torch.testing.assert_close(run(half, inputs), run(bert, inputs), atol=2e-3, rtol=0)


def test_masked_tokens_still_count_for_nothing(bert: onnx.ModelProto) -> None:
    half, inputs = convert_to_half(bert), make_batch(4, 12)
    others = inputs | {
        "input_ids": torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], 7)
    }
    torch.testing.assert_close(run(half, inputs), run(half, others))


def test_a_row_of_padding_stays_finite(bert: onnx.ModelProto) -> None:
    inputs = make_batch(2, 8)
    inputs["attention_mask"][1] = 0
    assert torch.isfinite(run(convert_to_half(bert), inputs)).all()


def test_every_product_and_softmax_is_half_and_the_interface_is_not(bert: onnx.ModelProto) -> None:
    half = onnx.shape_inference.infer_shapes(convert_to_half(bert))
    types = {info.name: info.type.tensor_type.elem_type for info in half.graph.value_info}
    nodes = [node for node in half.graph.node if node.op_type in ("MatMul", "Softmax")]
    assert len([node for node in nodes if node.op_type == "Softmax"]) == 2
    assert {types[node.output[0]] for node in nodes} == {TensorProto.FLOAT16}
    assert {i.type.tensor_type.elem_type for i in half.graph.input} == {TensorProto.INT64}
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def add_model(values: np.ndarray, *, as_node: bool = False) -> onnx.ModelProto:
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in ("x", "y")]
    constant = numpy_helper.from_array(values.astype(np.float32), "constant")
    nodes = [helper.make_node("Add", ["x", "constant"], ["y"])]
    if as_node:
        nodes.insert(0, helper.make_node("Constant", [], ["constant"], value=constant))
    initializers = [] if as_node else [constant]
    graph = helper.make_graph(nodes, "graph", info[:1], info[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def constant_of(model: onnx.ModelProto) -> np.ndarray:
    tensors = list(model.graph.initializer)
    tensors += [n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"]
    (tensor,) = tensors
    assert tensor.data_type == TensorProto.FLOAT16
    return numpy_helper.to_array(tensor)


@pytest.mark.parametrize("as_node", [False, True], ids=["initializer", "node"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_mask_beyond_half_leaves_room_for_the_score(sign: int, as_node: bool) -> None:
    mask = np.array(sign * np.finfo(np.float32).max)
    value = constant_of(convert_to_half(add_model(mask, as_node=as_node)))
    assert value == sign * HALF_MASK
    # 65504 would not: it is the largest, and the next sum overflows.
    assert np.isfinite(value + np.float16(sign * 1000))


def test_a_local_function_is_converted_too() -> None:
    model = add_model(np.array([[1.0, 2.0]]))
    opsets = [helper.make_opsetid("", 18)]
    twice = helper.make_node("Twice", ["x"], ["doubled"], domain="local")
    model.graph.node[0].input[0] = "doubled"
    model.graph.node.insert(0, twice)
    two = numpy_helper.from_array(np.array([2.0], np.float32))
    body = [
        helper.make_node("Constant", [], ["two"], value=two),
        helper.make_node("Mul", ["a", "two"], ["b"]),
    ]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    output = run(convert_to_half(model), {"x": torch.tensor([[3.0, 4.0]])})
    torch.testing.assert_close(output, torch.tensor([[7.0, 10.0]]))


def test_infinity_and_ordinary_values_are_kept() -> None:
    values = np.array([[-np.inf, 0.5]])
    np.testing.assert_array_equal(constant_of(convert_to_half(add_model(values))), values)


def test_a_weight_beyond_half_is_refused() -> None:
    with pytest.raises(NirvanaError, match=r"constant has 1 values beyond float16 .*7e\+04.*fp32"):
        convert_to_half(add_model(np.array([[7e4, 1.0]])))
