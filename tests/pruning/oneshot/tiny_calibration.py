"""Tokenizers, documents and configs for calibration, small enough to check token by token."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pruning.calibration.calibration_config import CalibrationConfig
from pruning.calibration.calibration_documents import Document
from tests.pruning.training.tiny_tasks import TAGS, WORDS


def make_byte_tokenizer(**special: str | None) -> PreTrainedTokenizerFast:
    """Every byte is a token; 0 to 3 are <pad>, <s>, </s> and <mask>. It adds no token itself."""
    names = ["<pad>", "<s>", "</s>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*names, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "</s>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def make_documents(num: int = 40, longest: int = 30, labels: bool = True) -> list[Document]:
    """Texts of 4 to `longest` of the tiny vocabulary's words, and the class of the first."""
    draw = random.Random(0)
    texts = [draw.choices(WORDS, k=draw.randint(4, longest)) for _ in range(num)]
    return [Document(" ".join(t), None, TAGS[t[0]] if labels else None) for t in texts]


def make_config(**changes: Any) -> CalibrationConfig:
    small = {"num_sequences": 12, "sequence_length": 20, "batch_size": 4}
    return CalibrationConfig(**{**small, **changes})


def write_lines(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)
