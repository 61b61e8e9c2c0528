"""Shapes that are told are those that ONNX Runtime gives, however a graph computes them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.graph_structure import size_inputs
from exporters.graphs.op_values import VALUE_OPS
from tests.exporters.surgeon.dense_graphs import export_torchscript
from tests.pruning.tiny_models import make_tiny


@pytest.mark.parametrize("name", ["deberta-v2", "llama", "t5"])
def test_every_shape_is_what_a_run_gives(name, tmp_path):
    path = export_torchscript(make_tiny(name, "eager"), tmp_path / "dense.onnx")
    model = ir.load(path)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    sizes = size_inputs(model.graph)
    facts = GraphFacts(model, sizes)
    values = [value for node in model.graph for value in node.outputs]
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in values)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    feeds = {value.name: np.ones(shape, np.int64) for value, shape in sizes.items()}
    for value, came in zip(values, session.run(None, feeds), strict=True):
        fact = facts.of(value)
        assert fact.shape == came.shape, value.name
        if fact.data is not None and came.dtype.kind == "i":
            np.testing.assert_array_equal(fact.data, came, err_msg=value.name)


def test_free_sizes_are_told_from_fixed_ones(tmp_path):
    model = ir.load(export_torchscript(make_tiny("bert", "eager"), tmp_path / "dense.onnx"))
    sizes = size_inputs(model.graph)
    facts = GraphFacts(model, sizes)
    batch, length = next(iter(sizes.values()))
    assert facts.is_free(batch * 4) and facts.is_free(length)
    assert not any(facts.is_free(size) for size in (32, 48, 99, 80, 4, 8))


def test_a_total_is_what_is_past_and_what_is_new():
    dims = {"ids": ["batch", "sequence"], "mask": ["batch", "total_sequence"]}
    dims["past"] = ["batch", 4, "past_sequence", 8]
    dims["other"] = ["batch", "past_sequence + sequence", "16"]
    values = [ir.Value(name=name, shape=ir.Shape(shape)) for name, shape in dims.items()]
    node = ir.node("Identity", [values[0]])
    found = size_inputs(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 18}))
    shapes = {value.name: shape for value, shape in found.items()}
    total = shapes["ids"][1] + shapes["past"][2]
    assert shapes["mask"][1] == shapes["other"][1] == total
    assert shapes["other"][2] == 16


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gathered_shapes_need_no_types(batch_dims):
    """Tools drop what torch.onnx says of each value, and its masks are made with GatherND."""
    mask = ir.Value(name="mask", shape=ir.Shape(["batch", "sequence", 5]))
    index = ir.Value(name="index", shape=ir.Shape(["batch", 3, 2]))
    cast = ir.node("Cast", [mask], {"to": ir.DataType.BOOL})
    node = ir.node("GatherND", [cast.outputs[0], index], {"batch_dims": batch_dims})
    graph = ir.Graph([mask, index], node.outputs, nodes=[cast, node], opset_imports={"": 18})
    sizes = size_inputs(graph)
    model = ir.Model(graph, ir_version=10)
    feeds = {value.name: np.zeros(shape, np.int64) for value, shape in sizes.items()}
    (expected,) = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    assert GraphFacts(model, sizes).shape(node.outputs[0]) == expected.shape


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [("ConstantOfShape", [[1 << 40]]), ("Range", [0, 1 << 40, 1]), ("Expand", [[1], [1 << 40]])],
)
def test_values_of_a_size_that_says_no_shape_are_not_computed(operator, inputs):
    node = ir.node(operator, [ir.val(f"in{i}") for i in range(len(inputs))])
    with pytest.raises(ValueError, match="too large a shape"):
        VALUE_OPS[operator](node, [np.asarray(value, np.int64) for value in inputs])
