"""Graphs as ONNX Runtime's own optimizer leaves them are pruned like those that it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import PreTrainedModel

from exporters.graphs.shape_rules import product_axes
from exporters.surgeon.prune_onnx import prune_onnx
from pruning.cutting.repack import plan_for, repack
from pruning.errors import NirvanaError
from pruning.plans.weight_fingerprint import SAME_WEIGHTS
from tests.exporters.surgeon.dense_graphs import Logits, assert_same_logits, export_torchscript
from tests.pruning.tiny_models import batch_for, dropping_plan, make_tiny, uneven_plan

LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
FAMILIES = ("bert", "llama", "gpt2", "vit", "modernbert", "t5")
OWN_KEYS = "deberta-v2-own-position-keys"
CASES = [
    *((name, level) for name in FAMILIES for level in ("basic", "extended")),
    # Convolutions in blocks; constants where positions were projected; pieces kept whole.
    *((name, "all") for name in ("vit", "deberta-v2", OWN_KEYS, "falcon-grouped")),
]


def optimize(path: Path, out: Path, level: str) -> set[str]:
    """Write what ONNX Runtime makes of a graph, and return its operators."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(out).graph.node}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = export_torchscript(make_tiny(name, "eager"), folder / f"{name}.onnx")
        return made[name]

    return get


@pytest.mark.parametrize("make_plan", [uneven_plan, dropping_plan])
@pytest.mark.parametrize(("name", "level"), CASES)
def test_an_optimized_graph_gives_what_the_repacked_model_gives(
    name, level, make_plan, dense, tmp_path
):
    model = make_tiny(name, "eager")
    plan = make_plan(model)
    path = tmp_path / "optimized.onnx"
    optimize(dense(name), path, level)
    prune_onnx(path, plan, tmp_path / "pruned.onnx")
    assert_same_logits(tmp_path / "pruned.onnx", repack(model, plan))


def export_dynamo(model: PreTrainedModel, path: Path) -> Path:
    """Write `batch -> logits`; modules are named in metadata, which the optimizer drops."""
    batch = batch_for(model)
    free = torch.export.Dim.DYNAMIC
    axes = tuple({0: free} if x.dim() > 2 else {0: free, 1: free} for x in batch.values())
    torch.onnx.export(
        Logits(model, list(batch)).eval(),
        tuple(batch.values()),
        str(path),
        input_names=list(batch),
        output_names=["logits"],
        dynamic_shapes={"inputs": axes},
        dynamo=True,
        verbose=False,
    )
    return path


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_an_optimized_dynamo_graph_with_a_few_names_left_is_cut(name, tmp_path):
    """Biases that a fused operator takes keep names such as `encoder.layer.0.output.dense.bias`."""
    model = make_tiny(name, "eager")
    plan = uneven_plan(model)
    path = tmp_path / "optimized.onnx"
    optimize(export_dynamo(model, tmp_path / "dense.onnx"), path, "extended")
    prune_onnx(path, plan, tmp_path / "pruned.onnx")
    assert_same_logits(tmp_path / "pruned.onnx", repack(model, plan))


def test_projections_that_became_constants_are_not_compared_and_that_is_said(dense, tmp_path):
    model = make_tiny(OWN_KEYS, "eager")
    plan = plan_for(model, uneven_plan(model).layers)
    path = tmp_path / "optimized.onnx"
    optimize(dense(OWN_KEYS), path, "all")
    graph = prune_onnx(path, plan, tmp_path / "pruned.onnx").graph
    assert graph.weights.startswith(SAME_WEIGHTS)
    assert (
        "not compared, for they were not found: the inputs of layer 0's attention" in graph.weights
    )
    assert "sizes.query_head_weights" in graph.unchecked_sizes
    assert_same_logits(tmp_path / "pruned.onnx", repack(model, plan))
    whole = prune_onnx(dense(OWN_KEYS), plan, tmp_path / "whole.onnx").graph
    assert (whole.weights, whole.unchecked_sizes) == (SAME_WEIGHTS, ())
    with torch.no_grad():
        model.deberta.encoder.layer[0].attention.output.dense.weight.mul_(1.01)
    other = plan_for(model, uneven_plan(model).layers)
    with pytest.raises(NirvanaError, match="other weights: those of the output of layer 0's"):
        prune_onnx(path, other, tmp_path / "no.onnx")


def test_the_optimizer_does_fuse_products(dense, tmp_path):
    assert "FusedMatMul" in optimize(dense("bert"), tmp_path / "optimized.onnx", "extended")


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("batch", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_fused_products_turn_their_operands_as_onnxruntime_does(trans, batch):
    attributes = {
        "transA": trans[0],
        "transB": trans[1],
        "transBatchA": batch[0],
        "transBatchB": batch[1],
        "alpha": 0.5,
    }
    node = helper.make_node("FusedMatMul", ["a", "b"], ["y"], domain="com.microsoft", **attributes)
    generator = np.random.default_rng(0)
    turned = [generator.standard_normal(shape) for shape in ((2, 3, 4, 5), (2, 3, 5, 6))]
    operands = []
    for index in (0, 1):
        axes = product_axes(ir.from_proto(node), index, 4)
        operands.append(turned[index].transpose(np.argsort(axes)).astype(np.float32))
    graph = helper.make_graph(
        [node],
        "product",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
            for name, value in zip("ab", operands, strict=True)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (came,) = session.run(None, dict(zip("ab", operands, strict=True)))
    np.testing.assert_allclose(came, 0.5 * turned[0] @ turned[1], rtol=1e-5, atol=1e-5)


def fuse_mlp(path: Path, out: Path, activation: str = "") -> Path:
    """Let the first MLP's output projection be another operator of ONNX Runtime's."""
    model = onnx.load(path)
    node = next(
        n
        for n in model.graph.node
        if n.op_type == "MatMul" and "output/dense" in n.name and "attention" not in n.name
    )
    weight = next(t for t in model.graph.initializer if t.name == node.input[1])
    turned = numpy_helper.to_array(weight).T.copy()
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    node.op_type, node.domain = "FusedMatMul", "com.microsoft"
    node.attribute.append(helper.make_attribute("transB", 1))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, out)
    return out


def test_a_fused_product_with_a_transposed_weight(dense, tmp_path):
    path = fuse_mlp(dense("bert"), tmp_path / "fused.onnx")
    model = make_tiny("bert", "eager")
    plan = uneven_plan(model)
    prune_onnx(path, plan, tmp_path / "pruned.onnx")
    assert_same_logits(tmp_path / "pruned.onnx", repack(model, plan))


def test_an_unknown_fused_operator_is_named(dense, tmp_path):
    model = onnx.load(dense("bert"))
    node = next(n for n in model.graph.node if n.op_type == "Softmax")
    node.op_type, node.domain = "BiasSoftmax2", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "unknown.onnx")
    with pytest.raises(NirvanaError, match=r"BiasSoftmax2\)"):
        prune_onnx(tmp_path / "unknown.onnx", uneven_plan(make_tiny("bert")), tmp_path / "no.onnx")
