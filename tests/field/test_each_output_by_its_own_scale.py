"""One output with large values, or one outlier in an output, excuses nothing else."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.compare.compare_config import CompareConfig
from exporters.compare.comparison import compare_artefacts
from exporters.compare.difference import measure_difference
from exporters.compare.onnx_artefact import open_onnx
from nirvana_deploy.cli import main

GATE = 1e-4


@pytest.fixture
def values() -> np.ndarray:
    """[batch, sequence, width], as embeddings are."""
    return np.random.default_rng(0).uniform(-0.4, 0.4, (2, 33, 16)).astype(np.float32)


def write_graph(path: Path, sign: float, flag: float = 0.0) -> Path:
    """A table that `input_ids` look up, and the ids themselves (plus `flag`) as one more output."""
    table = np.random.default_rng(0).uniform(-0.4, 0.4, (20000, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"]),
        helper.make_node("Add", ["input_ids", "flag"], ["tokens"]),
    ]
    shape = ["batch", "sequence"]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, 2]),
        helper.make_tensor_value_info("tokens", TensorProto.INT64, shape),
    ]
    weights = [
        numpy_helper.from_array(np.float32(sign) * table, "table"),
        numpy_helper.from_array(np.array(flag, np.int64), "flag"),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_large_ids_do_not_excuse_opposite_embeddings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write_graph(tmp_path / "a.onnx", 1), write_graph(tmp_path / "b.onnx", -1)
    assert main(["verify", str(a), str(b)]) == 1
    assert "last_hidden_state differs by" in capsys.readouterr().out
    assert main(["verify", str(a), str(a)]) == 0


def test_integers_are_compared_exactly(tmp_path: Path) -> None:
    a, b = write_graph(tmp_path / "a.onnx", 1), write_graph(tmp_path / "b.onnx", 1, flag=1)
    comparison = compare_artefacts(open_onnx(a), open_onnx(b), CompareConfig())
    (failure,) = comparison.failures
    assert "are the same in tokens" in failure


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e4])
def test_negated_values_of_any_size_differ(values: np.ndarray, size: float) -> None:
    found = measure_difference({"x": size * values}, {"x": -size * values}, None)
    assert found.scaled > GATE


@pytest.mark.parametrize("where", ["channel", "row", "both", "entry"])
@pytest.mark.parametrize("outlier", [3e2, 3e5, -np.inf, -3.4e38])
def test_outliers_excuse_no_other_value(values: np.ndarray, where: str, outlier: float) -> None:
    for place in {
        "channel": [np.s_[..., 3]],
        "row": [np.s_[:, 0]],
        "both": [np.s_[..., 3], np.s_[:, 0]],
        "entry": [np.s_[0, 5, 3]],
    }[where]:
        values[place] = outlier
    other = np.where(np.abs(values) < 1, -values, values)
    assert measure_difference({"x": values}, {"x": other}, None).scaled > GATE
    assert measure_difference({"x": values}, {"x": values.copy()}, None).scaled == 0


def test_rounding_beside_outliers_is_no_difference(values: np.ndarray) -> None:
    values[..., 3] *= 1e4
    noise = 1e-7 * np.abs(values).max() * np.random.default_rng(1).uniform(-1, 1, values.shape)
    assert measure_difference({"x": values}, {"x": values + noise}, None).scaled < GATE


def test_zeros_and_constants_are_compared() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert measure_difference({"x": zeros}, {"x": zeros}, None).scaled == 0
    assert measure_difference({"x": zeros}, {"x": zeros + 1e-5}, None).scaled > GATE
    assert measure_difference({"x": ones}, {"x": 1.001 * ones}, None).scaled > GATE
    flags = {"x": np.array([[True, False]])}
    assert measure_difference(flags, {"x": ~flags["x"]}, None).agreement == 0


def test_agreement_is_of_each_output_for_itself() -> None:
    logits = np.eye(5)[None]
    source = {"start_logits": logits, "end_logits": logits}
    candidate = {"start_logits": logits, "end_logits": logits[..., ::-1]}
    found = measure_difference(source, candidate, None)
    assert [round(output.agreement, 2) for output in found.outputs] == [1.0, 0.2]
    assert found.agreement == pytest.approx(0.2)


def test_a_regression_has_neither_classes_nor_a_divergence() -> None:
    found = measure_difference({"logits": np.ones((4, 1))}, {"logits": np.ones((4, 1))}, None)
    assert (found.kl, found.agreement) == (None, None)


def test_as_many_classes_as_tokens_are_no_tokens() -> None:
    """A padded row is no reason to leave out classes, when both numbers happen to be equal."""
    live = np.array([[1, 1, 0]])
    source, candidate = np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 1.0, -2.0]])
    assert measure_difference({"logits": source}, {"logits": candidate}, live).max_abs == 4
