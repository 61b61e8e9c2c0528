from pathlib import Path

import numpy as np
import onnx
import pytest

from exporters.compare.artefact import Artefact
from exporters.compare.case_run import run_case
from exporters.compare.cases import Case, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.compare.comparison import compare_artefacts
from exporters.compare.onnx_artefact import open_onnx
from exporters.precision import convert_precision as module
from exporters.precision.calibration_text import CalibrationRows, draw_calibration
from exporters.precision.convert_precision import convert_precision
from pruning.errors import NirvanaError
from tests.exporters.conftest import Exported

PRECISIONS = ("fp16", "bf16", "int8", "int8-static")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_pruned_graph_in_each_precision_is_near_its_source(
    name: str, precision: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exported: Exported = request.getfixturevalue(name)
    source = exported.in_onnx()
    out = tmp_path / "model.onnx"
    calibration = draw_calibration(source)["model"] if precision == "int8-static" else None
    outcome = convert_precision(
        exported.onnx / "model.onnx", out, precision, calibration=calibration
    )
    candidate = open_onnx(out)
    assert candidate.precision == outcome.precision == precision
    onnx.checker.check_model(str(out), full_check=True)
    comparison = compare_artefacts(source, candidate)
    assert comparison.gates.precision == precision
    assert comparison.passed, comparison.failures
    assert comparison.max_abs_difference > 1e-5  # it is not the float32 graph
    dense_bytes = (exported.onnx / "model.onnx").stat().st_size
    assert out.stat().st_size == outcome.size_bytes < dense_bytes
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_wrong_weight_is_found_in_half_precision_too(llama: Exported, tmp_path: Path) -> None:
    from tests.exporters.compare.onnx_damage import change_weight

    bad = change_weight(llama.onnx / "model.onnx", tmp_path / "bad.onnx", "layers.1.input_", 1.5)
    convert_precision(bad, tmp_path / "model.onnx", "fp16")
    comparison = compare_artefacts(llama.in_onnx(), open_onnx(tmp_path / "model.onnx"))
    assert not comparison.passed
    assert comparison.divergence.first == 1


def test_caches_halve_and_go_on_from_step_to_step(llama: Exported, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    convert_precision(llama.onnx / "model.onnx", out, "fp16")
    graph = onnx.load(out).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    caches = [kind for name, kind in types.items() if name.startswith("past_key_values.")]
    assert len(caches) == 4
    assert set(caches) == {onnx.TensorProto.FLOAT16}
    calls = {case.what for case in compare_artefacts(llama.in_onnx(), open_onnx(out)).cases}
    assert "step 3" in calls


def test_products_of_weights_are_integers_and_those_of_attention_are_not(
    bert: Exported, tmp_path: Path
) -> None:
    source = bert.onnx / "model.onnx"
    weights = {tensor.name for tensor in onnx.load(source).graph.initializer}
    attention = sum(
        node.op_type == "MatMul" and node.input[1] not in weights
        for node in onnx.load(source).graph.node
    )
    feeds = draw_calibration(bert.in_onnx())["model"]
    for precision in ("int8", "int8-static"):
        outcome = convert_precision(source, tmp_path / "q.onnx", precision, calibration=feeds)
        assert outcome.kept_float == {"MatMul": attention}


def test_weights_in_a_file_beside_stay_beside(bert: Exported, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_EXTERNAL_DATA_BYTES", 1000)
    source = tmp_path / "dense" / "model.onnx"
    source.parent.mkdir()
    model = onnx.load(bert.onnx / "model.onnx")
    onnx.save(model, source, save_as_external_data=True, location="w", size_threshold=256)
    out = tmp_path / "half" / "model.onnx"
    outcome = convert_precision(source, out, "bf16")
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert outcome.size_bytes == sum(path.stat().st_size for path in out.parent.iterdir())
    assert compare_artefacts(bert.in_onnx(), open_onnx(out)).passed


def test_what_cannot_be_converted_is_refused(bert: Exported, tmp_path: Path, monkeypatch) -> None:
    source, out = bert.onnx / "model.onnx", tmp_path / "out" / "model.onnx"
    with pytest.raises(NirvanaError, match=r"precision must be one of fp16, .*, got 'fp32'"):
        convert_precision(source, out, "fp32")
    with pytest.raises(NirvanaError, match=r"is not a valid ONNX file"):
        convert_precision(tmp_path / "none.onnx", out, "fp16")
    with pytest.raises(NirvanaError, match=r"in int8-static: int8-static needs inputs"):
        convert_precision(source, out, "int8-static")
    with pytest.raises(NirvanaError, match=r"could not be calibrated"):
        wrong = [{"input_ids": np.zeros((1, 2), np.float32)}]
        convert_precision(source, out, "int8-static", calibration=wrong)
    with pytest.raises(NirvanaError, match=r"quantizer takes 10\. Use fp16 or bf16"):
        monkeypatch.setattr(module, "MAX_QUANTISED_BYTES", 10)
        convert_precision(source, out, "int8")
    assert not any(out.parent.iterdir())
    convert_precision(source, out, "fp16")
    with pytest.raises(NirvanaError, match=r"Expected a graph in fp32 .* is in fp16 already"):
        convert_precision(out, tmp_path / "again.onnx", "bf16")


def test_a_failed_conversion_leaves_the_old_file(bert: Exported, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"old")
    with pytest.raises(NirvanaError, match="needs inputs"):
        convert_precision(bert.onnx / "model.onnx", out, "int8-static")
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_calibration_of_a_text_is_what_its_tokens_feed(llama: Exported) -> None:
    source: Artefact = llama.in_onnx()
    ids = np.array([[5, 6, 7, 8], [9, 10, 11, 0]])
    live = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    feeds = draw_calibration(source, [CalibrationRows(ids=ids, live=live)])["model"]
    assert len(feeds) == 1
    np.testing.assert_array_equal(feeds[0]["input_ids"], ids)
    np.testing.assert_array_equal(feeds[0]["attention_mask"], live)
    case = Case(batch=2, length=4, padding="none", num_steps=1)
    tokens = make_tokens(case, [source], CompareConfig())
    assert len(run_case(source, case, tokens)) == 2
