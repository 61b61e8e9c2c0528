"""Every bad input is refused with a message that says what and where; nothing is left behind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from exporters.graphs.read_onnx import read_onnx
from exporters.surgeon.prune_onnx import prune_onnx
from pruning.errors import NirvanaError
from tests.exporters.surgeon.dense_graphs import assert_same_logits, export_torchscript, repacked
from tests.pruning.tiny_models import block_plan, make_tiny, uneven_plan


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return export_torchscript(
        make_tiny("bert", "eager"), tmp_path_factory.mktemp("bert") / "bert.onnx"
    )


@pytest.fixture(scope="module")
def plan():
    return uneven_plan(make_tiny("bert"))


@pytest.fixture
def split(bert, tmp_path) -> Path:
    """The graph with its weights beside it."""
    path = tmp_path / "split" / "model.onnx"
    path.parent.mkdir()
    onnx.save(
        onnx.load(bert), path, save_as_external_data=True, location="weights.bin", size_threshold=64
    )
    return path


def refuse(dense: Path, plan, tmp_path: Path, match: str) -> None:
    out = tmp_path / "out" / "pruned.onnx"
    with pytest.raises(NirvanaError, match=match):
        prune_onnx(dense, plan, out)
    assert not out.parent.exists() or not any(out.parent.iterdir())


def test_no_file(plan, tmp_path):
    refuse(tmp_path / "none.onnx", plan, tmp_path, match="Expected an ONNX file at")


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x00" * 100])
def test_no_onnx(content, plan, tmp_path):
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    refuse(path, plan, tmp_path, match="is not a valid ONNX file")


def test_a_file_that_was_cut_short(bert, plan, tmp_path):
    path = tmp_path / "short.onnx"
    path.write_bytes(bert.read_bytes()[:-1000])
    refuse(path, plan, tmp_path, match="is not a valid ONNX file")


def test_a_plan_for_more_layers(bert, tmp_path):
    plan = uneven_plan(make_tiny("bert", num_hidden_layers=4))
    refuse(bert, plan, tmp_path, match="has 4 layers, the graph has encoder.layer 0, 1, 2")


def test_a_plan_for_another_width(bert, tmp_path):
    plan = uneven_plan(make_tiny("bert", intermediate_size=52))
    refuse(bert, plan, tmp_path, match="Layer 0, mlp: .* 52 units' channels, .* has 48")


def test_a_plan_for_another_family(bert, tmp_path):
    refuse(
        bert, uneven_plan(make_tiny("t5")), tmp_path, match="not a dense graph of the plan's model"
    )


def test_a_graph_that_was_pruned_before(bert, plan, tmp_path):
    once = tmp_path / "once.onnx"
    prune_onnx(bert, plan, once)
    refuse(once, plan, tmp_path, match="or the graph pruned already")


def test_a_cyclic_graph(bert, plan, tmp_path):
    model = onnx.load(bert)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    path = tmp_path / "cyclic.onnx"
    onnx.save(model, path)
    refuse(path, plan, tmp_path, match="cyclic or malformed")


def test_an_old_opset(bert, plan, tmp_path):
    model = onnx.load(bert)
    model.opset_import[0].version = 11
    path = tmp_path / "old.onnx"
    onnx.save(model, path)
    refuse(path, plan, tmp_path, match="is of opset 11; 13 or newer is needed")


def test_a_graph_in_a_graph(plan, tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "If", ["c"], ["z"], name="choose", then_branch=branch, else_branch=branch
            )
        ],
        "merged",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "merged.onnx"
    onnx.save(helper.make_model(graph), path)
    refuse(path, plan, tmp_path, match=r"node choose \(If\) holds a graph of its own")


def test_missing_weights(split, plan, tmp_path):
    (split.parent / "weights.bin").unlink()
    refuse(split, plan, tmp_path, match=r"weights\.bin is missing: .* keeps the data of")


def test_weights_that_were_cut_short(split, plan, tmp_path):
    data = split.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-10])
    refuse(split, plan, tmp_path, match="It was cut short, or is of another graph")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "inside/../../weights.bin"])
def test_weights_outside_of_the_folder(location, split, plan, tmp_path):
    model = onnx.load(split, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, split)
    shutil.copy(split.parent / "weights.bin", split.parent.parent)
    refuse(split, plan, tmp_path, match="outside of the file's folder")


def test_weights_behind_a_link_that_leads_out(split, plan, tmp_path):
    outside = tmp_path / "elsewhere.bin"
    shutil.move(split.parent / "weights.bin", outside)
    (split.parent / "weights.bin").symlink_to(outside)
    refuse(split, plan, tmp_path, match="outside of the file's folder")


def test_an_operator_that_is_not_known(bert, plan, tmp_path):
    model = onnx.load(bert)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Hardmax"
    path = tmp_path / "hardmax.onnx"
    onnx.save(model, path)
    refuse(path, plan, tmp_path, match=r"Softmax \(Hardmax\): units of the plan reach an operator")


def test_a_norm_over_all_heads(bert, plan, tmp_path):
    model = onnx.load(bert)
    add = next(n for n in model.graph.node if n.name.endswith("layer.0/attention/self/query/Add"))
    at = list(model.graph.node).index(add)
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [32], [1.0] * 32))
    norm = helper.make_node(
        "LayerNormalization", ["before", "one"], [add.output[0]], name="all_heads"
    )
    add.output[0] = "before"
    model.graph.node.insert(at + 1, norm)
    path = tmp_path / "norm.onnx"
    onnx.save(model, path)
    refuse(path, plan, tmp_path, match="all_heads .*mixes units that the plan takes apart")


def test_a_shared_weight(bert, plan, tmp_path):
    model = onnx.load(bert)
    by_name = {node.name: node for node in model.graph.node}
    path = "/model/bert/encoder/layer.{}/intermediate/dense/MatMul"
    first, second = (by_name[path.format(number)] for number in (0, 1))
    second.input[1] = first.input[1]
    path = tmp_path / "shared.onnx"
    onnx.save(model, path)
    refuse(path, plan, tmp_path, match="share weights cannot be pruned apart")


def test_a_quantised_weight(bert, plan, tmp_path):
    model = onnx.load(bert)
    node = next(n for n in model.graph.node if n.name.endswith("layer.1/output/dense/MatMul"))
    node.op_type = "MatMulInteger"
    path = tmp_path / "int8.onnx"
    onnx.save(model, path)
    refuse(path, plan, tmp_path, match="Layer 1: .* weight of output.dense.*quantize after pruning")


def test_a_file_that_is_there(bert, plan, tmp_path):
    out = tmp_path / "there.onnx"
    out.write_text("mine")
    with pytest.raises(NirvanaError, match="exists already"):
        prune_onnx(bert, plan, out)
    assert out.read_text() == "mine"


def test_a_folder_that_cannot_be_written(bert, plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NirvanaError, match="Cannot write"):
        prune_onnx(bert, plan, tmp_path / "file" / "out.onnx")


def test_a_first_block_that_has_to_stay(tmp_path):
    model = make_tiny("modernbert", "eager")
    dense = export_torchscript(model, tmp_path / "modernbert.onnx")
    plan = block_plan(model)
    moved = (plan.layers[1], plan.layers[0], plan.layers[2])
    refuse(dense, replace(plan, layers=moved), tmp_path, match="first block .* cannot be dropped")


def test_odd_names(bert, plan, tmp_path):
    """Names with spaces, quotes, dots and non-ASCII letters are names like any other."""
    model = onnx.load(bert)
    for initializer in model.graph.initializer:
        old, new = initializer.name, f"weight «{initializer.name}» 'of' \"é\\.kept_1"
        initializer.name = new
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
    path = tmp_path / "odd name é.onnx"
    onnx.save(model, path)
    out = tmp_path / "prüned «1».onnx"
    prune_onnx(path, plan, out)
    assert_same_logits(out, repacked("bert"))


def test_weights_beside_the_graph_stay_beside_it(split, plan, tmp_path):
    out = tmp_path / "pruned.onnx"
    prune_onnx(split, plan, out)
    assert sorted(p.name for p in tmp_path.glob("pruned*")) == ["pruned.onnx", "pruned.onnx.data"]
    assert_same_logits(out, repacked("bert"))
    assert (tmp_path / "pruned.onnx.data").stat().st_size > 50_000


def test_what_is_written_passes_the_full_check(bert, split, plan, tmp_path):
    for number, dense in enumerate((bert, split)):
        out = tmp_path / f"{number}.onnx"
        prune_onnx(dense, plan, out)
        onnx.checker.check_model(str(out), full_check=True)
        assert len(read_onnx(out).graph)


@pytest.mark.parametrize("damage", ["cut", "type", "dims"])
def test_a_weight_whose_values_do_not_fit(damage, bert, plan, tmp_path):
    model = onnx.load(bert)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    if damage == "cut":
        weight.raw_data = weight.raw_data[:-3]
    elif damage == "type":
        weight.data_type = 99
    else:
        weight.dims[0] = -1
    path = tmp_path / "damaged.onnx"
    onnx.save(model, path)
    refuse(path, plan, tmp_path, match="is not a valid ONNX file")
