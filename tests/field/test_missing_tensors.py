"""Weights that lack a tensor are refused by its name wherever a model is loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from exporters.trace.load_source import load_source
from nirvana_deploy.cli import main
from pruning.checkpoints.model_source import load_model, load_with_head
from pruning.errors import NirvanaError
from tests.pruning.tiny_models import SIZES


def classifier() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))


def decoder(*, tied: bool) -> PreTrainedModel:
    config = LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=tied)
    return LlamaForCausalLM(config)


def save(model: PreTrainedModel, folder: Path, change: object) -> Path:
    """Save a model whose stored tensors are changed."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def without(part: str):
    return lambda stored: {name: value for name, value in stored.items() if part not in name}


@pytest.mark.parametrize(
    ("model", "gone", "named"),
    [
        (classifier, "classifier", r"lack 2 tensors .* classifier\.bias, classifier\.weight"),
        (classifier, "pooler", r"bert\.pooler\.dense\.bias.*architectures"),
        (lambda: decoder(tied=False), "lm_head", r"asks for: lm_head\.weight"),
    ],
)
def test_a_missing_head_is_refused(tmp_path: Path, model, gone: str, named: str) -> None:
    folder = save(model(), tmp_path / "m", without(gone))
    with pytest.raises(NirvanaError, match=named):
        load_source(folder)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_a_renamed_head_is_named_both_ways(tmp_path: Path) -> None:
    def rename(stored):
        return {n.replace("classifier.", "score."): value for n, value in stored.items()}

    folder = save(classifier(), tmp_path / "m", rename)
    with pytest.raises(NirvanaError, match=r"classifier\.bias.*They hold score\.bias, score\.wei"):
        load_source(folder)


def test_a_head_of_another_size_is_refused(tmp_path: Path) -> None:
    def widen(stored):
        return {**stored, "classifier.weight": torch.zeros(5, 32)}

    folder = save(classifier(), tmp_path / "m", widen)
    with pytest.raises(NirvanaError, match=r"classifier\.weight \[3, 32\], the weights have \[5"):
        load_source(folder)


def test_a_tied_head_and_unused_heads_are_no_lack(tmp_path: Path) -> None:
    load_source(save(decoder(tied=True), tmp_path / "tied", dict))
    bare = save(BertModel(BertConfig(**SIZES)), tmp_path / "bare", without("pooler"))
    load_source(bare)  # its pooler is not exported

    def add(stored):
        new = {
            "cls.predictions.bias": torch.zeros(3),
            "bert.embeddings.position_ids": torch.ones(1),
        }
        return {**stored, **new}

    load_source(save(classifier(), tmp_path / "more", add))


def test_a_tensor_that_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    def add(stored):
        return {**stored, "bert.embeddings.adapter.weight": torch.zeros(2)}

    folder = save(classifier(), tmp_path / "m", add)
    with pytest.raises(NirvanaError, match=r"hold 1 tensors more .* bert\.embeddings\.adapter"):
        load_source(folder)


def test_a_fresh_head_is_drawn_only_where_it_is_meant(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(folder)
    with pytest.raises(NirvanaError, match=r"classifier\.bias"):
        load_model(AutoModelForSequenceClassification, str(folder))
    _, drawn = load_with_head(AutoModelForSequenceClassification, str(folder), fresh=True)
    assert {"classifier.bias", "bert.pooler.dense.bias"} <= set(drawn)
