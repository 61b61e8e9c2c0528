"""Loaded graphs against the torch models that they were traced from."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import nirvana_deploy
from nirvana_deploy.serving.loaded.generating_model import CACHE_NAME
from nirvana_deploy.serving.loaded.open_model import load_export
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.loaded.export_file import describe_export
from tests.nirvana_deploy.serving.tiny_classifier import save_checkpoint, save_classifier
from tests.nirvana_deploy.serving.tiny_decoder import TinyDecoder

PROMPTS = [[5, 6, 7, 8], [9], [11, 12, 13]]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = save_checkpoint(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    save_classifier(folder / "model.onnx")
    return describe_export(folder)


@pytest.fixture(params=["dense", "pruned"])
def decoder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[TinyDecoder, Any]:
    tiny: TinyDecoder = request.getfixturevalue(f"{request.param}_decoder")
    folder = shutil.copytree(tiny.folder, tmp_path / "decoder")
    return tiny, nirvana_deploy.load(describe_export(folder))


def pad(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    length = max(map(len, prompts))
    rows = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def test_an_encoder_is_called_as_in_transformers(encoder: Path) -> None:
    model = nirvana_deploy.load(encoder)
    ids = torch.tensor([[2, 3, 4], [5, 6, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    session = onnxruntime.InferenceSession(encoder / "model.onnx")
    (expected,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    came = model(input_ids=ids, attention_mask=mask).logits
    np.testing.assert_array_equal(came.numpy(), expected)
    # Without a mask, all tokens count.
    whole = model(input_ids=ids[:1]).logits
    np.testing.assert_allclose(whole.numpy(), expected[:1], rtol=1e-6)
    assert model.config.id2label[2] == "high"


def test_a_decoder_gives_torchs_logits_step_by_step(decoder: tuple[TinyDecoder, Any]) -> None:
    tiny, model = decoder
    inputs = pad(PROMPTS)
    with torch.no_grad():
        expected = tiny.model(**inputs).logits
    whole = model(**inputs).logits
    live = inputs["attention_mask"].bool()
    torch.testing.assert_close(whole[live], expected[live])
    # The last token apart, with the cache of those before.
    first = model(inputs["input_ids"][:, :-1], attention_mask=inputs["attention_mask"][:, :-1])
    last = model(
        inputs["input_ids"][:, -1:],
        attention_mask=inputs["attention_mask"],
        **{CACHE_NAME: first[CACHE_NAME]},
    )
    torch.testing.assert_close(last.logits[:, 0], expected[:, -1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"do_sample": True},
        {"use_cache": False},
    ],
    ids=["greedy", "beams", "several", "sampling", "no cache"],
)
def test_it_generates_what_transformers_generates(
    decoder: tuple[TinyDecoder, Any], settings: dict[str, Any]
) -> None:
    tiny, model = decoder
    made = []
    for each in (tiny.model, model):
        torch.manual_seed(0)
        made.append(each.generate(**pad(PROMPTS), max_new_tokens=15, **settings).tolist())
    assert made[1] == made[0]


def test_what_cannot_be_run_is_refused(encoder: Path) -> None:
    model: Any = load_export(encoder)
    with pytest.raises(NirvanaError, match=r"takes input_ids, attention_mask; it has no input pix"):
        model(input_ids=torch.ones(1, 2).long(), pixels=torch.ones(1))
    with pytest.raises(NirvanaError, match="needs the input input_ids, got attention_mask"):
        model(attention_mask=torch.ones(1, 2).long())


def test_a_folder_that_was_changed_or_is_none_is_refused(encoder: Path, tmp_path: Path) -> None:
    config = (encoder / "config.json").read_text()
    (encoder / "config.json").write_text("{")
    with pytest.raises(NirvanaError, match=r"config\.json cannot be read: .* Export the model"):
        load_export(encoder)
    (encoder / "config.json").write_text(config)
    save_classifier(encoder / "model.onnx", seed=5)
    with pytest.raises(NirvanaError, match=r"model\.onnx is not the file that export\.json"):
        load_export(encoder)
    (encoder / "model.onnx").unlink()
    with pytest.raises(NirvanaError, match=r"model\.onnx is missing\. Export"):
        load_export(encoder)
    text = (encoder / "export.json").read_text()
    (encoder / "export.json").write_text(text.replace("model.onnx", "../model.onnx"))
    with pytest.raises(NirvanaError, match="names a file outside its folder"):
        load_export(encoder)
    (encoder / "export.json").write_text("{}")
    with pytest.raises(NirvanaError, match=r"export\.json cannot be read"):
        load_export(encoder)
    unnamed = {"graphs": {"model": {"sha256": {}, "inputs": []}}}
    (encoder / "export.json").write_text(json.dumps(unnamed))
    with pytest.raises(NirvanaError, match=r"export\.json has no hash of model\.onnx"):
        load_export(encoder)
    with pytest.raises(NirvanaError, match=r"export\.json is missing: .* not a folder of `nirvana"):
        load_export(tmp_path)
    save_classifier(encoder / "encoder_model.onnx")
    describe_export(encoder)
    with pytest.raises(NirvanaError, match="holds the graphs encoder_model; `load` takes one"):
        load_export(encoder)
