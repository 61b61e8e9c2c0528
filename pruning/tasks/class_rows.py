"""Rows of a classification: a text and its class."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from datasets import ClassLabel, Dataset

from pruning.errors import NirvanaError
from pruning.tasks.class_names import ClassNames, number_classes, read_name
from pruning.tasks.data_config import DataConfig
from pruning.tasks.data_splits import Splits, require_text
from pruning.tasks.task import IGNORED, EncodedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_tags(
    splits: Splits,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    model: tuple[str, ...] | None = None,
) -> EncodedRows:
    """Tokenise words and put each one's tag on its first token; the others are not scored.

    Tags are numbered as the class names of `model` are, where given.

    Raises:
        NirvanaError: the tokenizer cannot say where tokens stand, words and tags are no lists of
            one length, or the tags do not fit (see `number_classes`).
    """
    require_offsets(tokenizer, "token-classification")
    tags = read_tags(splits, config, model)
    return EncodedRows(
        train=_encode_tags(splits.train, tags, tokenizer, config),
        validation=_encode_tags(splits.validation, tags, tokenizer, config),
        labels=tags.labels,
    )


def read_tags(
    splits: Splits, config: DataConfig, model: tuple[str, ...] | None = None
) -> ClassNames:
    """Read and check the tags of all rows, without any other work.

    Raises:
        NirvanaError: see `encode_tags`.
    """
    for rows in (splits.whole_train, splits.validation):
        _check_lists(rows, config)
    return number_classes(
        _name_tags(splits.whole_train, config, config.train_split),
        _name_tags(splits.validation, config, config.validation_split),
        declared=_tag_names(splits.whole_train, config.tags_column),
        model=model,
        column=config.tags_column,
    )


def _name_tags(rows: Dataset, config: DataConfig, split: str) -> set[str]:
    column, declared = config.tags_column, _tag_names(rows, config.tags_column)
    return {
        read_name(tag, declared, f"The column {column!r}, row {number} of {split!r},")
        for number, tags in enumerate(rows[column])
        for tag in tags
    }


def require_offsets(tokenizer: PreTrainedTokenizerBase, task: str) -> None:
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


def _encode_tags(
    rows: Dataset, names: ClassNames, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> Dataset:
    declared = _tag_names(rows, config.tags_column)

    def encode(row: dict[str, Any]) -> dict[str, object]:
        words, tags = row[config.tokens_column], row[config.tags_column]
        known = [names.numbers[read_name(tag, declared, "A row")] for tag in tags]
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


def encode_classes(
    splits: Splits,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    model: tuple[str, ...] | None = None,
) -> EncodedRows:
    """Tokenise texts and number their classes, as the class names of `model` do where given.

    Raises:
        NirvanaError: a text is not a string, or the classes do not fit (see `number_classes`).
    """
    classes = read_classes(splits, config, model)
    return EncodedRows(
        train=_encode(splits.train, classes, tokenizer, config),
        validation=_encode(splits.validation, classes, tokenizer, config),
        labels=classes.labels,
    )


def read_classes(
    splits: Splits, config: DataConfig, model: tuple[str, ...] | None = None
) -> ClassNames:
    """Read and check the classes of all rows, without any other work.

    Raises:
        NirvanaError: see `encode_classes`.
    """
    return number_classes(
        set(name_rows(splits.whole_train, config, config.train_split)),
        set(name_rows(splits.validation, config, config.validation_split)),
        declared=_declare(splits.whole_train, config),
        model=model,
        column=config.label_column,
    )


def name_rows(rows: Dataset, config: DataConfig, split: str) -> list[str]:
    """Return the class name of each row."""
    column, declared = config.label_column, _declare(rows, config)
    return [
        read_name(value, declared, f"The column {column!r}, row {number} of {split!r},")
        for number, value in enumerate(rows[column])
    ]


def _declare(rows: Dataset, config: DataConfig) -> tuple[str, ...] | None:
    feature = rows.features[config.label_column]
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _encode(
    rows: Dataset, classes: ClassNames, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> Dataset:
    declared = _declare(rows, config)

    def encode(batch: dict[str, list[object]]) -> dict[str, object]:
        texts, values = batch[config.text_column], batch[config.label_column]
        require_text(texts, config.text_column)
        encoded = dict(tokenizer(texts, truncation=True, max_length=config.max_length))
        encoded["labels"] = [classes.numbers[read_name(v, declared, "A row")] for v in values]
        return encoded

    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False
    )
