"""Rows of a sequence-to-sequence task: a text, and the text that is to be written for it."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from pruning.training.data_config import DataConfig
from pruning.training.data_splits import Splits, require_text
from pruning.training.encoded_rows import EncodedRows


def encode_targets(splits: Splits, tokenizer: Any, config: DataConfig) -> EncodedRows:
    """Tokenise texts and targets, each cut to max_length.

    Raises:
        NirvanaError: a text or target is not a string.
    """
    return EncodedRows(
        train=_encode(splits.train, tokenizer, config),
        validation=_encode(splits.validation, tokenizer, config),
    )


def _encode(rows: Dataset, tokenizer: Any, config: DataConfig) -> Dataset:
    limits: dict[str, Any] = {"truncation": True, "max_length": config.max_length}

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts, targets = batch[config.text_column], batch[config.target_column]
        require_text(texts, config.text_column)
        require_text(targets, config.target_column)
        encoded = dict(tokenizer(texts, **limits))
        return {**encoded, "labels": tokenizer(text_target=targets, **limits)["input_ids"]}

    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False
    )
