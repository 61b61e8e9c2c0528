"""`nirvana verify A B`, on graphs small enough to be written by hand."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nirvana_deploy
from nirvana_deploy.cli import main

CLASSES = 4


def write_classifier(path: Path, bias: float = 0.0) -> Path:
    """Save a graph that looks tokens up in a table of logits, and adds `bias` to one class."""
    table = np.random.default_rng(0).standard_normal((20, CLASSES)).astype(np.float32)
    added = np.array([bias, 0, 0, 0], np.float32)
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(added, "bias")]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Add", ["found", "bias"], ["logits"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ["batch", "sequence", CLASSES]
    )
    graph = helper.make_graph(nodes, "graph", [ids], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    same = [str(write_classifier(tmp_path / f"{name}.onnx")) for name in "ab"]
    return same[0], same[1], str(write_classifier(tmp_path / "other.onnx", 0.25))


def test_equal_files_exit_with_0(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", files[0], files[1]]) == 0
    out = capsys.readouterr().out
    assert "Equal" in out
    assert "0.00e+00" in out


def test_files_that_differ_exit_with_1_and_say_where(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", files[0], files[2]]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT" in out
    assert "logits differs by 2.50e-01" in out
    assert "the first diverging layer cannot be named" in out


def test_gates_are_flags_and_json_has_every_case(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    loose = ["--tolerance", "0.3", "--max_kl", "1", "--min_agreement", "0"]
    assert main(["verify", files[0], files[2], "--json", "--num_steps", "1", *loose]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["gates"]["tolerance"] == 0.3
    assert record["max_abs_difference"] == pytest.approx(0.25)
    assert {case["num_steps"] for case in record["cases"]} == {1}


def test_the_function_returns_what_it_found(files: tuple[str, str, str]) -> None:
    comparison = nirvana_deploy.verify(files[0], files[2])
    assert not comparison.passed
    config = nirvana_deploy.CompareConfig(precision="int8", max_kl=1.0, min_agreement=0.0)
    assert nirvana_deploy.verify(files[0], files[2], config).passed


def test_a_missing_file_is_one_line(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", files[0], "nowhere.onnx"]) != 0
    assert "Expected an ONNX file at nowhere.onnx, found none." in " ".join(
        capsys.readouterr().err.split()
    )
