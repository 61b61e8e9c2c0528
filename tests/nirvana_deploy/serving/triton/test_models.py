"""The code that travels with a package, run without a server, on stand-ins of its classes."""

import hashlib
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from nirvana_deploy.serving.triton import models as triton_models
from pruning.checkpoints.file_hash import hash_file
from tests.nirvana_deploy.serving.tiny_classifier import (
    make_classifier,
    save_checkpoint,
    save_classifier,
)


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self.array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self.array

    def to_dlpack(self) -> np.ndarray:
        return self.array

    @classmethod
    def from_dlpack(cls, name: str, packed: np.ndarray) -> "Tensor":
        return cls(name, packed)


class Corrupting(Tensor):
    """What a backend built for NumPy 1 makes of NumPy 2's arrays."""

    @classmethod
    def from_dlpack(cls, name: str, packed: np.ndarray) -> "Tensor":
        return cls(name, np.zeros_like(packed))


class Response:
    def __init__(self, outputs: Any = (), error: Any = None) -> None:
        self.outputs, self.error = {tensor.name(): tensor.array for tensor in outputs}, error


class TritonModelException(Exception):  # noqa: N818  that is Triton's name
    pass


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse = Tensor, Response
    module.TritonError, module.TritonModelException = str, TritonModelException
    module.triton_string_to_numpy = lambda _: np.int64
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def load(
    name: str, folder: Path, parameters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    full_name = f"{triton_models.__name__}.{name}"
    monkeypatch.delitem(sys.modules, full_name, raising=False)
    model = importlib.import_module(full_name).TritonPythonModel()
    outputs = [{"name": "input_ids", "data_type": "TYPE_INT64"}]
    config = {
        "parameters": {k: {"string_value": v} for k, v in parameters.items()},
        "output": outputs,
    }
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return model


def hashes(folder: Path) -> dict[str, str]:
    digest = hashlib.sha256((folder / "1" / "model.onnx").read_bytes()).hexdigest()
    return {"sha256:1/model.onnx": digest}


def make_request(rows: int, length: int, seed: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(1, 50, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_requests_of_all_shapes_get_their_own_rows(
    triton: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_classifier(tmp_path / "1" / "model.onnx")
    model = load("serve_onnx", tmp_path, hashes(tmp_path), monkeypatch)
    requests = [
        make_request(*shape, seed) for seed, shape in enumerate([(1, 5), (2, 7), (3, 5), (1, 5)])
    ]
    # Token 99 is in no table: its group fails, and no other.
    requests.append({name: np.full((1, 9), 99) for name in requests[0]})
    responses = model.execute(requests)
    session = onnxruntime.InferenceSession(make_classifier().SerializeToString())
    for request, response in zip(requests[:4], responses, strict=False):
        (expected,) = session.run(None, request)
        np.testing.assert_allclose(response.outputs["logits"], expected, rtol=1e-6)
    assert "out of data bounds" in responses[4].error


def test_a_backend_that_corrupts_tensors_is_refused(
    triton: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_classifier(tmp_path / "1" / "model.onnx")
    monkeypatch.setattr(triton, "Tensor", Corrupting)
    with pytest.raises(TritonModelException, match=r"corrupts the tensors of NumPy .* numpy<2"):
        load("serve_onnx", tmp_path, hashes(tmp_path), monkeypatch)


def test_a_file_without_a_hash_or_with_another_is_not_loaded(
    triton: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_classifier(tmp_path / "1" / "model.onnx")
    with pytest.raises(TritonModelException, match=r"has no sha256:1/model\.onnx"):
        load("serve_onnx", tmp_path, {}, monkeypatch)
    wrong = dict.fromkeys(hashes(tmp_path), "0" * 64)
    with pytest.raises(TritonModelException, match=r"1/model\.onnx has SHA-256 .* says 000000"):
        load("serve_onnx", tmp_path, wrong, monkeypatch)


def test_a_label_is_that_of_the_largest_logit(
    triton: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "labels.json").write_text('["no", "yes"]')
    found = {
        "file_sha256": hash_file(tmp_path / "1" / "labels.json"),
        "score_kind": "softmax",
    }
    model = load("name_label", tmp_path, found, monkeypatch)
    logits = np.array([[0.0, np.log(3.0)], [1000.0, 0.0]], np.float32)
    (response,) = model.execute([{"logits": logits}])
    assert response.outputs["label"].tolist() == [["yes"], ["no"]]
    np.testing.assert_allclose(response.outputs["score"], [[0.75], [1.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "file"), [("name_label", "labels.json"), ("tokenize_text", "tokenizer.json")]
)
def test_a_text_models_file_that_was_changed_is_not_loaded(
    triton: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / file).write_text("[]")
    with pytest.raises(TritonModelException, match=rf"{file} is not the file that config\.pbtxt"):
        load(name, tmp_path, {"file_sha256": "0" * 64}, monkeypatch)


def test_a_long_text_is_cut_before_it_is_tokenized_and_a_longer_one_refused(
    triton: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(tmp_path / "checkpoint") / "tokenizer.json"
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "tokenizer.json").write_bytes(path.read_bytes())
    parameters = {"file_sha256": hash_file(path), "max_length": "16", "max_text_chars": "60000"}
    parameters |= {"pad_id": "0", "pad_token": "[PAD]"}
    model = load("tokenize_text", tmp_path, parameters, monkeypatch)
    whole = Tokenizer.from_file(str(path))
    whole.enable_truncation(16)
    texts = ["the first text " * 3000, "no", " " * 50_000 + "text"]
    lengths: list[int] = []
    for name in ("_tokenizer", "_whole"):
        monkeypatch.setattr(model, name, Counted(getattr(model, name), lengths))
    (response,) = model.execute([{"text": encode(texts)}])
    for text, row in zip(texts, response.outputs["input_ids"].tolist(), strict=True):
        ids = whole.encode(text).ids
        assert row[: len(ids)] == ids and set(row[len(ids) :]) <= {0}
    assert max(lengths[:1]) < 1000  # characters of 45,000
    (refused,) = model.execute([{"text": encode(["a " * 40_000])}])
    assert "80000 characters; at most 60000 are taken" in refused.error


def encode(texts: list[str]) -> np.ndarray:
    return np.array([[text.encode()] for text in texts], object)


class Counted:
    """A tokenizer that writes down how long the texts are that it reads."""

    def __init__(self, tokenizer: Tokenizer, lengths: list[int]) -> None:
        self._tokenizer, self._lengths = tokenizer, lengths

    def encode(self, text: str) -> Any:
        self._lengths.append(len(text))
        return self._tokenizer.encode(text)

    def encode_batch(self, texts: list[str]) -> Any:
        self._lengths += map(len, texts)
        return self._tokenizer.encode_batch(texts)
