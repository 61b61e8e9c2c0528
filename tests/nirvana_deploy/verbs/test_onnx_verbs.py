"""`nirvana surgeon` and `nirvana inspect FILE.onnx` on the command line."""

from __future__ import annotations

import json

import pytest

from nirvana_deploy.cli import main
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
    assert "--prove and --write_plan take a model" in capsys.readouterr().err
