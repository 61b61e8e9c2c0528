"""What must stay in float32 does: each graph here is wrong by a lot if it did not."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from exporters.onnx_session import open_session
from exporters.precision import half_precision
from exporters.precision.half_precision import HalfOutcome, convert_graph
from pruning.errors import NirvanaError
from tests.exporters.precision.half_graphs import (
    make_buckets,
    make_model,
    make_rms_norm,
    make_rotary,
    run_rounded,
)

TYPES = pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])


def convert(model: onnx.ModelProto, dtype: ir.DataType) -> tuple[onnx.ModelProto, HalfOutcome]:
    copy = ir.from_proto(model)
    outcome = convert_graph(copy, dtype)
    converted = ir.to_proto(copy)
    onnx.checker.check_model(converted, full_check=True)
    return converted, outcome


@TYPES
def test_far_positions_keep_their_angles(dtype: ir.DataType) -> None:
    positions = np.array([[0, 257, 2049, 30001]])
    (expected,) = ReferenceEvaluator(make_rotary()).run(None, {"position_ids": positions})
    half, outcome = convert(make_rotary(), dtype)
    came = run_rounded(half, {"position_ids": positions})
    # What is rounded is the cosine and the sine, not the position.
    np.testing.assert_allclose(came, expected, atol=4e-3)
    assert outcome.kept_float == {"Cast": 1, "Cos": 1, "Mul": 1, "Sin": 1, "Unsqueeze": 1}
    assert outcome.num_half_nodes == 1


@TYPES
@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_squares_of_large_values_do_not_overflow(square: str, dtype: ir.DataType) -> None:
    x = np.linspace(-2000, 2000, 16, dtype=np.float32).reshape(2, 8)
    half, outcome = convert(make_rms_norm(square), dtype)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(run_rounded(half, {"x": x}), expected, rtol=2e-2)
    assert outcome.num_half_nodes == 1  # the last product
    assert outcome.kept_float["Add"] == 1  # between the mean and its root


@TYPES
def test_buckets_of_distances_are_exact(dtype: ir.DataType) -> None:
    distance = np.arange(1, 300)
    (expected,) = ReferenceEvaluator(make_buckets()).run(None, {"distance": distance})
    half, _ = convert(make_buckets(), dtype)
    (came,) = ReferenceEvaluator(half).run(None, {"distance": distance})
    np.testing.assert_array_equal(came, expected)


@pytest.mark.parametrize("make", [make_rotary, lambda: make_rms_norm("Pow")])
def test_without_the_rules_the_same_graphs_are_wrong(make, monkeypatch) -> None:
    monkeypatch.setattr(half_precision, "find_float_nodes", lambda graph, dtype: set())
    model = make()
    name = model.graph.input[0].name
    inputs = {
        "position_ids": np.array([[2049]]),
        "x": np.full((1, 8), 2000, np.float32),
    }
    copy = ir.from_proto(model)
    convert_graph(copy, ir.DataType.FLOAT16)
    (expected,) = ReferenceEvaluator(model).run(None, {name: inputs[name]})
    came = run_rounded(ir.to_proto(copy), {name: inputs[name]})
    assert np.abs(came - expected).max() > 0.1


def test_an_operator_without_the_half_type_stays_float() -> None:
    """Range has no bfloat16 at opset 18, and takes no float16 either."""
    scalar = (TensorProto.FLOAT, [])
    nodes = [
        helper.make_node("Range", ["start", "end", "one"], ["steps"]),
        helper.make_node("Add", ["steps", "one"], ["y"]),
    ]
    model = make_model(
        nodes,
        {"start": scalar, "end": scalar},
        {"y": (TensorProto.FLOAT, ["n"])},
        {"one": np.array(1, np.float32)},
    )
    half, outcome = convert(model, ir.DataType.BFLOAT16)
    assert outcome.kept_float == {"Range": 1}
    came = run_rounded(half, {"start": np.array(0, np.float32), "end": np.array(4, np.float32)})
    np.testing.assert_array_equal(came, [1, 2, 3, 4])


def test_a_constant_that_is_zero_by_default_is_of_the_half_type() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Add", ["x", "zeros"], ["y"]),
    ]
    shape = (TensorProto.FLOAT, ["batch", 2])
    half, _ = convert(make_model(nodes, {"x": shape}, {"y": shape}, {}), ir.DataType.BFLOAT16)
    x = np.array([[1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(run_rounded(half, {"x": x}), x)


def test_a_weight_that_both_kinds_take_is_there_twice() -> None:
    nodes = [
        helper.make_node("Add", ["x", "weight"], ["sum"]),
        helper.make_node("Pow", ["sum", "weight"], ["y"]),
    ]
    shape = (TensorProto.FLOAT, ["batch", 2])
    weight = np.array([1.0, 2.0], np.float32)
    half, _ = convert(
        make_model(nodes, {"x": shape}, {"y": shape}, {"weight": weight}), ir.DataType.FLOAT16
    )
    types = sorted(tensor.data_type for tensor in half.graph.initializer)
    assert types == [TensorProto.FLOAT, TensorProto.FLOAT16]
    came = run_rounded(half, {"x": np.array([[1.0, 1.0]], np.float32)})
    np.testing.assert_allclose(came, [[2.0, 9.0]])


def test_caches_are_half_and_logits_are_not() -> None:
    cache = (TensorProto.FLOAT, ["batch", "length"])
    nodes = [
        helper.make_node("Add", ["past_key_values.0.key", "one"], ["present.0.key"]),
        helper.make_node("Mul", ["present.0.key", "one"], ["logits"]),
    ]
    model = make_model(
        nodes,
        {"past_key_values.0.key": cache},
        {"present.0.key": cache, "logits": cache},
        {"one": np.array([1.0], np.float32)},
    )
    half, _ = convert(model, ir.DataType.BFLOAT16)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*half.graph.input, *half.graph.output)
    }
    assert types == {
        "past_key_values.0.key": TensorProto.BFLOAT16,
        "present.0.key": TensorProto.BFLOAT16,
        "logits": TensorProto.FLOAT,
    }


def test_a_graph_in_a_node_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n"])],
    )
    node = helper.make_node(
        "If", ["c"], ["y"], name="the_if", then_branch=branch, else_branch=branch
    )
    model = make_model(
        [node],
        {"c": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, ["n"])},
        {"y": (TensorProto.FLOAT, ["n"])},
        {},
    )
    with pytest.raises(NirvanaError, match=r"the node the_if \(If\) has a graph of its own"):
        convert_graph(ir.from_proto(model), ir.DataType.FLOAT16)


def test_fused_operators_are_of_the_type_of_what_they_take() -> None:
    """Inference knows nothing of ONNX Runtime's operators, nor then of what comes after them."""
    nodes = [
        helper.make_node("FastGelu", ["x"], ["first"], domain="com.microsoft"),
        helper.make_node("Add", ["first", "x"], ["middle"]),
        helper.make_node("FastGelu", ["middle"], ["y"], domain="com.microsoft"),
    ]
    shape = (TensorProto.FLOAT, ["batch", 2])
    model = make_model(nodes, {"x": shape}, {"y": shape}, {})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    half, outcome = convert(model, ir.DataType.FLOAT16)
    assert outcome.num_half_nodes == 3
    x = np.array([[0.5, -1.0]], np.float32)
    session = open_session(model.SerializeToString(), name="model.onnx")
    (expected,) = session.run(None, {"x": x})
    np.testing.assert_allclose(run_rounded(half, {"x": x}), expected, atol=2e-3)


def test_values_of_no_known_type_are_refused() -> None:
    node = helper.make_node("Strange", ["x"], ["middle"], domain="elsewhere")
    last = helper.make_node("Identity", ["middle"], ["y"])
    shape = (TensorProto.FLOAT, ["n"])
    model = make_model([node, last], {"x": shape}, {"y": shape}, {})
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(NirvanaError, match="the type of middle cannot be told"):
        convert_graph(ir.from_proto(model), ir.DataType.FLOAT16)
