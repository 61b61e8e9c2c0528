"""Rows of a language model: a text is its own label."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pruning.errors import NirvanaError
from pruning.tasks.collation import hide_tokens
from pruning.tasks.data_config import DataConfig
from pruning.tasks.data_splits import Splits, require_text
from pruning.tasks.task import EncodedRows


def encode_targets(
    splits: Splits, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> EncodedRows:
    """Tokenise texts and targets, each cut to max_length.

    Raises:
        NirvanaError: a text or target is not a string.
    """
    return EncodedRows(
        train=_encode(splits.train, tokenizer, config),
        validation=_encode(splits.validation, tokenizer, config),
    )


def _encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Dataset:
    limits: dict[str, object] = {"truncation": True, "max_length": config.max_length}

    def encode(batch: dict[str, list[object]]) -> dict[str, object]:
        texts, targets = batch[config.text_column], batch[config.target_column]
        require_text(texts, config.text_column)
        require_text(targets, config.target_column)
        encoded = dict(tokenizer(texts, **limits))
        return {**encoded, "labels": tokenizer(text_target=targets, **limits)["input_ids"]}

    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False
    )


def pack_texts(
    splits: Splits, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> EncodedRows:
    """Join all texts, each closed by the end-of-text token, and cut them into full rows.

    Every row has max_length tokens and no padding; what is left over at the end is dropped (a
    split with less than one row is one shorter row). Where the tokenizer begins a text with a
    token of its own, every row begins with it.

    Raises:
        NirvanaError: a text is not a string, there is none, or no token ends a text.
    """
    train, _ = _pack(splits.train, tokenizer, config)
    validation, bytes_per_token = _pack(splits.validation, tokenizer, config)
    return EncodedRows(train=train, validation=validation, bytes_per_token=bytes_per_token)


def mask_texts(
    splits: Splits, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> EncodedRows:
    """Tokenise one text a row; hidden are other tokens in each pass, in validation always the same.

    Training rows come without labels: `collate` hides their tokens.

    Raises:
        NirvanaError: a text is not a string or the tokenizer has no mask token.
    """
    train = _tokenise_rows(splits.train, tokenizer, config)
    validation = _tokenise_rows(splits.validation, tokenizer, config)
    generator = torch.Generator().manual_seed(0)

    def hide(row: dict[str, object]) -> dict[str, object]:
        ids, special = (torch.tensor([row[k]]) for k in ("input_ids", "special_tokens_mask"))
        hidden, labels = hide_tokens(ids, special, tokenizer, generator)
        return {"input_ids": hidden[0].tolist(), "labels": labels[0].tolist()}

    return EncodedRows(
        train=train,
        validation=validation.map(
            hide, remove_columns=["special_tokens_mask"], load_from_cache_file=False
        ),
    )


def _tokenise_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> Dataset:
    def encode(batch: dict[str, list[object]]) -> dict[str, object]:
        texts = batch[config.text_column]
        require_text(texts, config.text_column)
        limits = {"truncation": True, "max_length": config.max_length}
        return dict(tokenizer(texts, return_special_tokens_mask=True, **limits))

    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False
    )


def _pack(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> tuple[Dataset, float]:
    texts = [text for text in _read_texts(rows, config.text_column) if text]
    if not texts:
        raise NirvanaError(
            f"The column {config.text_column!r} holds no text in any of {len(rows)} rows."
        )
    end, lead = find_end(tokenizer), find_lead(tokenizer)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    stream = list(chain.from_iterable([*ids, end] for ids in encoded))
    num_bytes = sum(len(text.encode()) for text in texts)
    size = max(1, config.max_length - len(lead))
    chunks = [lead + chunk for chunk in _cut(stream, size)]
    packed = {
        "input_ids": chunks,
        "attention_mask": [[1] * len(chunk) for chunk in chunks],
        "labels": chunks,
    }
    return Dataset.from_dict(packed), num_bytes / len(stream)


def _read_texts(rows: Dataset, column: str) -> list[str]:
    texts = list(rows[column])
    require_text(texts, column)
    return texts


def _cut(stream: list[int], size: int) -> Iterator[list[int]]:
    if len(stream) < size:
        yield stream
    for start in range(0, len(stream) - size + 1, size):
        yield stream[start : start + size]


def find_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends a text: eos, or sep where there is none.

    Raises:
        NirvanaError: the tokenizer has neither.
    """
    for end in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if end is not None:
            return int(end)
    raise NirvanaError(
        f"{type(tokenizer).__name__} has no token that ends a text (eos or sep), which causal-lm "
        "puts between texts. Give the tokenizer an eos_token."
    )


def find_lead(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token that the tokenizer begins every text with, if it does."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []
