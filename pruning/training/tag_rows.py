"""Rows of a token classification: a list of words and a tag for each."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, chain
from typing import Any

from datasets import ClassLabel, Dataset

from pruning.errors import NirvanaError
from pruning.training.class_rows import name_classes, number_class
from pruning.training.data_config import DataConfig
from pruning.training.data_splits import Splits
from pruning.training.encoded_rows import EncodedRows
from pruning.training.loss_labels import IGNORED


def encode_tags(splits: Splits, tokenizer: Any, config: DataConfig) -> EncodedRows:
    """Tokenise words and put each one's tag on its first token; the others are not scored.

    Raises:
        NirvanaError: the tokenizer cannot say where tokens stand, words and tags are no lists of
            one length, or validation has a tag that training lacks.
    """
    require_offsets(tokenizer, "token-classification")
    for rows in (splits.train, splits.validation):
        _check_lists(rows, config)
    names = _tag_names(splits.whole_train, config.tags_column)
    if names is None:
        tags = chain.from_iterable(splits.whole_train[config.tags_column])
        names = name_classes(tags, config.tags_column)
    return EncodedRows(
        train=_encode(splits.train, names, tokenizer, config),
        validation=_encode(splits.validation, names, tokenizer, config),
        labels=names,
    )


def require_offsets(tokenizer: Any, task: str) -> None:
    """Raise NirvanaError for a tokenizer that cannot say which characters a token covers."""
    if not getattr(tokenizer, "is_fast", False):
        raise NirvanaError(
            f"{task} needs a fast tokenizer, which knows where its tokens stand in the text; "
            f"{type(tokenizer).__name__} is not one. Load the model's fast tokenizer and save it "
            "beside the model."
        )


def _check_lists(rows: Dataset, config: DataConfig) -> None:
    pairs = zip(rows[config.tokens_column], rows[config.tags_column], strict=True)
    for number, (words, tags) in enumerate(pairs):
        lists = isinstance(words, list) and isinstance(tags, list)
        if not lists or len(words) != len(tags) or not all(isinstance(w, str) for w in words):
            raise NirvanaError(
                f"Expected a list of words in {config.tokens_column!r} and a list with a tag for "
                f"each in {config.tags_column!r}; row {number} has {str(words)[:60]} and "
                f"{str(tags)[:60]}. Set data.tokens_column and data.tags_column."
            )


def _tag_names(rows: Dataset, column: str) -> tuple[str, ...] | None:
    """Return the names that the data set itself gives its tags, None where it has none."""
    inner = getattr(rows.features[column], "feature", None)
    return tuple(inner.names) if isinstance(inner, ClassLabel) else None


def _encode(rows: Dataset, names: tuple[str, ...], tokenizer: Any, config: DataConfig) -> Dataset:
    numbers = {name: number for number, name in enumerate(names)}
    is_class = _tag_names(rows, config.tags_column) is not None

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        words, tags = row[config.tokens_column], row[config.tags_column]
        known = tags if is_class else [number_class(numbers, tag) for tag in tags]
        # One text, not `is_split_into_words`: some byte-level tokenizers refuse that.
        encoded = tokenizer(
            " ".join(words),
            truncation=True,
            max_length=config.max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        offsets, special = encoded.pop("offset_mapping"), encoded.pop("special_tokens_mask")
        return {**encoded, "labels": _label_tokens(words, known, offsets, special)}

    return rows.map(encode, remove_columns=rows.column_names, load_from_cache_file=False)


def _label_tokens(
    words: list[str], tags: list[int], offsets: list[tuple[int, int]], special: list[int]
) -> list[int]:
    """Return a label a token: the tag of the word that begins there, or IGNORED."""
    starts = list(accumulate((len(word) + 1 for word in words[:-1]), initial=0))
    labels, last = [], -1
    for (start, end), is_special in zip(offsets, special, strict=True):
        # The last character: byte-level tokens begin with the space before their word.
        word = bisect_right(starts, end - 1) - 1
        is_new = not is_special and end > start and word != last and bool(words)
        labels.append(tags[word] if is_new else IGNORED)
        last = word if is_new else last
    return labels
