"""The three graphs of a pruned T5 in the forms that fuse: against torch, and in real builds."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from onnxscript import version_converter

from exporters.compare.comparison import compare_artefacts
from exporters.compare.onnx_artefact import open_onnx
from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.export_config import Form
from exporters.passes.known_forms import apply_form
from pruning.errors import NirvanaError
from tests.exporters.conftest import Exported
from tests.exporters.passes.formed import count

GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model")


def write_forms(t5: Exported, form: Form, opset: int, out: Path) -> dict[str, ir.Model]:
    out.mkdir()
    models = {}
    for name in GRAPHS:
        model = ir.load(t5.onnx / f"{name}.onnx")
        if opset > 18:  # what is traced at 18 becomes the same graph of a newer opset
            version_converter.convert_version(model, opset)
        apply_form(model, form)
        ir.save(model, out / f"{name}.onnx")
        models[name] = model
    return models


@pytest.fixture(scope="module")
def for_tensorrt(t5: Exported, tmp_path_factory) -> tuple[Path, dict[str, ir.Model]]:
    out = tmp_path_factory.mktemp("t5") / "tensorrt"
    return out, write_forms(t5, "tensorrt", 24, out)


def test_position_biases_are_fused_for_onnx_runtime(t5: Exported, tmp_path: Path) -> None:
    models = write_forms(t5, "ort-cpu", 18, tmp_path / "ort")
    fused = {name: count(model, "MultiHeadAttention") for name, model in models.items()}
    assert fused == {"encoder_model": 1, "decoder_model": 2, "decoder_with_past_model": 2}
    assert not any(count(model, "Softmax") for model in models.values())
    comparison = compare_artefacts(t5.in_torch(), open_onnx(tmp_path / "ort"))
    assert comparison.passed, comparison.failures
    assert comparison.max_abs_difference < 1e-5


def test_every_attention_is_an_operator_for_tensorrt(t5: Exported, for_tensorrt) -> None:
    out, models = for_tensorrt
    assert [count(models[name], "Attention") for name in GRAPHS] == [1, 2, 2]
    comparison = compare_artefacts(t5.in_torch(), open_onnx(out))
    assert comparison.passed, comparison.failures
    assert comparison.max_abs_difference < 1e-5


def test_an_encoder_decoder_has_no_cache_buffers(t5: Exported) -> None:
    model = ir.load(t5.onnx / "decoder_with_past_model.onnx")
    with pytest.raises(NirvanaError, match="needs opset 23 or newer, the graph has 18"):
        apply_form(model, "tensorrt", cache_length=8)


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_builds_with_all_attentions_fused(name: str, for_tensorrt, tmp_path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx (extra rtx) is not installed")
    config = EngineConfig(
        flavour="tensorrt_rtx",
        batch=ShapeRange(min=1, opt=2, max=4),
        length=ShapeRange(min=2, opt=8, max=16),
        past=ShapeRange(min=1, opt=8, max=16),
        compute_capabilities=("8.0", "8.6", "8.9", "12.0"),
    )
    result = build_engine(for_tensorrt[0] / f"{name}.onnx", tmp_path / "engine", config)
    expected = 1 if name == "encoder_model" else 2
    assert (result.num_fused_attentions, result.num_attention_layers) == (expected, expected)
