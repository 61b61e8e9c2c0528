"""Loaded exports in transformers' pipelines."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoTokenizer, pipeline
from transformers.pipelines import base as pipelines_base

import nirvana_deploy
from tests.nirvana_deploy.serving.loaded.export_file import describe_export
from tests.nirvana_deploy.serving.tiny_classifier import LABELS, make_classifier
from tests.nirvana_deploy.serving.tiny_classifier import save_checkpoint as save_files
from tests.nirvana_deploy.serving.tiny_decoder import TinyDecoder, save_tokenizer

TABLE = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)


def make_token_graph(output: str) -> onnx.ModelProto:
    """Return a graph of three numbers for each live token, whatever stands around it."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], [output]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ("batch", "sequence"))
        for name in ("input_ids", "attention_mask")
    ]
    shape = ("batch", "sequence", 3)
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
    last = numpy_helper.from_array(np.array([2], np.int64), "last")
    weights = [numpy_helper.from_array(TABLE, "table"), last]
    graph = helper.make_graph(nodes, "tokens", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_export(folder: Path, graph: onnx.ModelProto, architecture: str) -> Path:
    save_files(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "bert", "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(config))
    onnx.save(graph, folder / "model.onnx")
    return describe_export(folder)


def make_pipeline(task: str, folder: Path):
    model = nirvana_deploy.load(folder)
    return pipeline(task, model=model, tokenizer=AutoTokenizer.from_pretrained(folder))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_text_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pruned checkpoint names our class; the pipeline must know the stock one.
    architecture = "PrunedBertForSequenceClassification"
    folder = save_export(tmp_path / "export", make_classifier(), architecture)
    said: list[str] = []
    monkeypatch.setattr(pipelines_base.logger, "error", said.append)
    classify = make_pipeline("text-classification", folder)
    assert said == []  # else: "The model ... is not supported for text-classification"
    texts = ["the first text", "a word"]
    table = numpy_helper.to_array(make_classifier().graph.initializer[0])
    shares = [softmax(table[classify.tokenizer(text).input_ids].mean(0)) for text in texts]
    expected = [LABELS[share.argmax()] for share in shares]
    # One by one, and padded to one length.
    for batch_size in (1, 2):
        answers = classify(texts, batch_size=batch_size)
        assert [answer["label"] for answer in answers] == expected
        scores = [answer["score"] for answer in answers]
        np.testing.assert_allclose(scores, [share.max() for share in shares], rtol=1e-5)


def test_token_classification(tmp_path: Path) -> None:
    graph = make_token_graph("logits")
    folder = save_export(tmp_path / "export", graph, "BertForTokenClassification")
    find = make_pipeline("token-classification", folder)
    found = find("the first text")
    encoded = find.tokenizer("the first text", return_special_tokens_mask=True)
    live = ~np.array(encoded.special_tokens_mask, bool)
    shares = softmax(TABLE[encoded.input_ids][live])
    assert len(found) == len(shares) == 3
    assert [token["entity"] for token in found] == [LABELS[row.argmax()] for row in shares]
    np.testing.assert_allclose([token["score"] for token in found], shares.max(-1), rtol=1e-5)


def test_feature_extraction(tmp_path: Path) -> None:
    folder = save_export(tmp_path / "export", make_token_graph("last_hidden_state"), "BertModel")
    extract = make_pipeline("feature-extraction", folder)
    (rows,) = extract("a word")
    np.testing.assert_allclose(rows, TABLE[extract.tokenizer("a word").input_ids], rtol=1e-6)


def test_text_generation(pruned_decoder: TinyDecoder, tmp_path: Path) -> None:
    folder = shutil.copytree(pruned_decoder.folder, tmp_path / "export")
    save_tokenizer(folder, [])  # letters alone: the model has few words
    loaded = nirvana_deploy.load(describe_export(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    assert len(tokenizer) <= loaded.config.vocab_size
    texts, settings = ["the text", "a"], {"max_new_tokens": 9, "do_sample": False, "batch_size": 2}
    made = [
        pipeline("text-generation", model=model, tokenizer=tokenizer)(texts, **settings)
        for model in (pruned_decoder.model, loaded)
    ]
    assert made[1] == made[0]
