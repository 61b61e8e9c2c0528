"""`nirvana surgeon` and `nirvana inspect FILE.onnx` on the command line."""

from __future__ import annotations

import json

import onnx
import pytest
from onnx import TensorProto, helper

from nirvana_deploy.cli import main
from pruning.checkpoints.file_hash import hash_file
from tests.exporters.surgeon.dense_graphs import (
    assert_same_logits,
    export_torchscript,
    repacked,
)
from tests.pruning.tiny_models import make_tiny, uneven_plan


@pytest.fixture
def dense(tmp_path):
    uneven_plan(make_tiny("bert")).save(tmp_path / "plan.json")
    return export_torchscript(make_tiny("bert", "eager"), tmp_path / "dense.onnx")


def test_surgeon_writes_the_pruned_graph(dense, tmp_path, capsys):
    out = tmp_path / "pruned.onnx"
    assert main(["surgeon", str(dense), str(tmp_path / "plan.json"), "-o", str(out)]) == 0
    assert "found by" in capsys.readouterr().out
    assert_same_logits(out, repacked("bert"))


def test_surgeon_prints_json(dense, tmp_path, capsys):
    out = tmp_path / "pruned.onnx"
    command = ["surgeon", str(dense), str(tmp_path / "plan.json"), "--out", str(out), "--json"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["onnx_path"] == str(out) and printed["num_layers"] == 3


def test_surgeon_without_a_plan(dense, tmp_path, capsys):
    command = ["surgeon", str(dense), str(tmp_path / "none.json"), "-o", str(tmp_path / "o.onnx")]
    assert main(command) == 1
    assert "Expected a pruning plan" in capsys.readouterr().err


def test_inspect_shows_a_graph(dense, capsys):
    assert main(["inspect", str(dense)]) == 0
    printed = capsys.readouterr().out
    assert "attention" in printed and "KV heads" in printed and "48" in printed


def test_inspect_prints_json(dense, capsys):
    assert main(["inspect", str(dense), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["kind"] for row in rows] == ["attention", "mlp"] * 3


def test_inspect_proves_no_graph(dense, capsys):
    assert main(["inspect", str(dense), "--prove"]) == 1
    assert "--prove and --write-plan take a model" in capsys.readouterr().err


def test_inspect_shows_every_graph_of_an_export(dense, tmp_path, capsys):
    told = {"task": "text-classification", "form": "portable", "max_abs_difference": 1e-7}
    told["verification"] = {"passed": True}
    hashes = {path.name: hash_file(path) for path in tmp_path.iterdir() if path.is_file()}
    told["graphs"] = {"model": {"file": "dense.onnx", "sha256": hashes}}
    (tmp_path / "export.json").write_text(json.dumps(told))
    assert main(["inspect", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "text-classification" in printed and "dense.onnx: opset" in printed
    assert "1.00e-07" in printed and "KV heads" in printed
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["graphs"]) == ["dense.onnx"] and found["unknown"] == {}
    (tmp_path / "export.json").write_text("{}")
    assert main(["inspect", str(tmp_path)]) == 1
    assert "export.json cannot be read" in capsys.readouterr().err


def test_inspect_says_why_a_graph_is_not_known(tmp_path, capsys):
    scores = helper.make_node("Softmax", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([scores], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    assert main(["inspect", str(tmp_path)]) == 1
    assert "found no attention and no MLP" in capsys.readouterr().err


def test_export_refuses_what_is_onnx_already(dense, tmp_path, capsys):
    for source in (dense, tmp_path):
        assert main(["export", str(source), "--out", str(tmp_path / "out")]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "is ONNX already" in said and "`nirvana surgeon` prunes an ONNX file" in said
    assert not (tmp_path / "out").exists()
