"""`inspect` tells heads and widths of graphs, dense and pruned, with and without names."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper, load, save

from exporters.graphs.graph_structure import inspect_onnx
from exporters.surgeon.prune_onnx import prune_onnx
from pruning.errors import NirvanaError
from tests.exporters.surgeon.dense_graphs import export_torchscript
from tests.exporters.surgeon.test_foreign_graphs import strip_names
from tests.pruning.tiny_models import dropping_plan, make_tiny, uneven_plan


def counts(structure):
    return [
        (row.num_heads, row.num_kv_heads) if row.kind == "attention" else row.num_neurons
        for row in structure.rows
    ]


@pytest.mark.parametrize(
    ("name", "heads"), [("bert", (4, 4)), ("llama", (6, 3)), ("phi3", (6, 3)), ("gpt2", (4, 4))]
)
def test_a_dense_graph(name, heads, tmp_path):
    path = export_torchscript(make_tiny(name, "eager"), tmp_path / "dense.onnx")
    assert counts(inspect_onnx(path)) == [heads, 48] * 3
    assert counts(inspect_onnx(strip_names(path, tmp_path / "stripped.onnx"))) == [heads, 48] * 3


def test_a_pruned_graph(tmp_path):
    model = make_tiny("llama", "eager")
    dense = export_torchscript(model, tmp_path / "dense.onnx")
    plan = uneven_plan(model)
    prune_onnx(dense, plan, tmp_path / "pruned.onnx")
    expected = []
    for layer in plan.layers:
        groups = {head // 2 for head in layer.kept_heads}
        expected += [(len(layer.kept_heads), len(groups)), len(layer.kept_neurons)]
    structure = inspect_onnx(tmp_path / "pruned.onnx")
    assert counts(structure) == expected
    assert {row.head_dim for row in structure.rows if row.kind == "attention"} == {8}
    assert structure.num_unknown_attentions == 0


def test_what_is_like_an_attention_and_is_none_is_counted(tmp_path):
    path = export_torchscript(make_tiny("bert", "eager"), tmp_path / "dense.onnx")
    model = load(path)
    (output,) = model.graph.output
    model.graph.node.append(helper.make_node("Softmax", [output.name], ["probabilities"]))
    model.graph.output[0].name = "probabilities"
    save(model, path)
    structure = inspect_onnx(path)
    assert (len(structure.rows), structure.num_unknown_attentions) == (6, 1)


def test_dropped_sub_blocks_have_no_row(tmp_path):
    model = make_tiny("bert", "eager")
    dense = export_torchscript(model, tmp_path / "dense.onnx")
    prune_onnx(dense, dropping_plan(model), tmp_path / "pruned.onnx")
    kinds = [row.kind for row in inspect_onnx(tmp_path / "pruned.onnx").rows]
    assert kinds == ["mlp", "attention"]


def test_no_transformer(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    node = helper.make_node("Relu", ["x"], ["y"])
    save(helper.make_model(helper.make_graph([node], "relu", [x], [y])), tmp_path / "relu.onnx")
    with pytest.raises(NirvanaError, match="found no attention and no MLP"):
        inspect_onnx(tmp_path / "relu.onnx")
