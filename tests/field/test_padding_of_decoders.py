"""Decoders that classify need a pad token: the tokenizer's is taken, or its absence is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from pruning.errors import NirvanaError
from pruning.training.baseline_stage import run_baseline
from pruning.training.training_configs import BaselineConfig
from tests.pruning.training.tiny_tasks import write_headed, write_rows

QUICK = BaselineConfig(num_epochs=1, batch_size=4)


def save_decoder(folder: Path, pad_token: str | None) -> Path:
    """A decoder whose config names no pad token."""
    source = write_headed(folder, "causal-lm")
    config = AutoConfig.from_pretrained(source)
    config.pad_token_id = None
    config.save_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = pad_token
    tokenizer.save_pretrained(source)
    return source


def test_the_tokenizers_pad_token_is_written_into_the_checkpoint(tmp_path: Path) -> None:
    token = AutoTokenizer.from_pretrained(write_headed(tmp_path / "any", "causal-lm")).pad_token
    source = save_decoder(tmp_path / "model", token or "[PAD]")
    data = write_rows(tmp_path / "data", "classification")
    run_baseline(str(source), data, QUICK, tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out" / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "checkpoint")
    assert config.pad_token_id == tokenizer.pad_token_id is not None
    assert config.problem_type == "single_label_classification"


def test_without_any_pad_token_it_is_refused_before_training(tmp_path: Path) -> None:
    source = save_decoder(tmp_path / "model", None)
    data = write_rows(tmp_path / "data", "classification")
    with pytest.raises(NirvanaError, match=r"pad_token_id.*nor its tokenizer \(pad_token\)"):
        run_baseline(str(source), data, QUICK, tmp_path / "out")
    assert not (tmp_path / "out").exists()
