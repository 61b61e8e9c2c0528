from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from exporters.compare.verify import COMPARED_SHAPES, check_graph, verify_onnx
from exporters.export_config import ExportConfig
from exporters.export_stage import export_checkpoint, run_export
from exporters.trace.padded_batch import make_batch
from exporters.trace.trace_onnx import TRACED_BATCH, TRACED_LENGTH
from pruning.checkpoints.checkpoint import load_pruned, save_pruned
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
    save_pruned(repack(model, plan), folder / "pruned")
    config = ExportConfig()
    return folder, run_export(folder / "dense", folder / "pruned", config, folder / "onnx")


def test_both_exports_match_torch_on_four_other_shapes(exported) -> None:
    _, result = exported
    for name in ("dense", "pruned"):
        cases = result[name]["cases"]
        assert {(c["batch"], c["length"]) for c in cases} == set(COMPARED_SHAPES)
        assert (TRACED_BATCH, TRACED_LENGTH) not in COMPARED_SHAPES
        assert [c["padded"] for c in cases] == [False, True] * 4
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
    names = [i.name for i in session.get_inputs()]
    assert "attention_mask" in names
    batch = make_batch(load_pruned(folder / "pruned"), 2, 30, padded=True)
    inputs = {name: batch[name].numpy() for name in names}
    (masked,) = session.run(None, inputs)
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    (whole,) = session.run(None, inputs)
    assert np.abs(masked - whole).max() > 1e-3


def test_a_changed_weight_is_found(exported, tmp_path: Path) -> None:
    folder, _ = exported
    model = onnx.load(folder / "onnx" / "pruned" / "model.onnx")
    bias = next(
        i for i in model.graph.initializer if list(i.dims) == [5] and "classifier" in i.name
    )
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.01, bias.name))
    onnx.save(model, tmp_path / "model.onnx")
    torch_model = load_pruned(folder / "pruned", attn_implementation="eager").eval()
    with pytest.raises(NirvanaError, match=r"differs from its torch model by 1\.00e-02"):
        verify_onnx(tmp_path / "model.onnx", torch_model, 1e-4)


def test_files_that_are_no_export_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(NirvanaError, match="is no valid ONNX file"):
        check_graph(path, ("input_ids", "attention_mask"))
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["3", 2])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["3", 2])
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(NirvanaError, match=r"should have the inputs .* it has \{'x': \['3', 2\]\}"):
        check_graph(path, ("input_ids", "attention_mask"))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_padded_batches_have_padding_and_one_live_token_a_row(batch: int) -> None:
    model = make_tiny("bert")
    mask = make_batch(model, batch, 20, padded=True)["attention_mask"]
    assert (mask == 0).any()
    assert (mask[:, 0] == 1).all()
    assert torch.equal(mask, mask.sort(dim=1, descending=True).values)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(NirvanaError, match="opset must be from 18 to 24, got 12"):
        ExportConfig(opset=12)
    with pytest.raises(NirvanaError, match="tolerance must be above 0"):
        ExportConfig(tolerance=0)


def test_a_model_without_a_classifier_is_refused(tmp_path: Path) -> None:
    model = make_tiny("llama")
    save_pruned(repack(model, uneven_plan(model)), tmp_path / "pruned")
    with pytest.raises(NirvanaError, match=r"a sequence classifier .* PrunedLlamaForCausal"):
        export_checkpoint(tmp_path / "pruned", tmp_path / "onnx", ExportConfig())
