"""Rows of a classification: a text and its class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from datasets import ClassLabel, Dataset

from pruning.errors import NirvanaError
from pruning.training.data_config import DataConfig
from pruning.training.data_splits import Splits, require_text
from pruning.training.encoded_rows import EncodedRows


def encode_classes(splits: Splits, tokenizer: Any, config: DataConfig) -> EncodedRows:
    """Tokenise texts and number their classes.

    Raises:
        NirvanaError: a text is not a string, a class is no name or integer, or validation has a
            class that training lacks.
    """
    feature = splits.whole_train.features[config.label_column]
    if isinstance(feature, ClassLabel):
        labels = tuple(feature.names)
    else:
        labels = name_classes(splits.whole_train[config.label_column], config.label_column)
    return EncodedRows(
        train=_encode(splits.train, labels, tokenizer, config),
        validation=_encode(splits.validation, labels, tokenizer, config),
        labels=labels,
    )


def name_classes(values: Iterable[Any], column: str) -> tuple[str, ...]:
    """Return the names of the classes among `values`, sorted.

    Raises:
        NirvanaError: a value is neither a name nor an integer.
    """
    found = set(values)
    if None in found or not all(isinstance(value, str | int) for value in found):
        raise NirvanaError(
            f"The column {column!r} must hold a class name or an integer in every row, found "
            f"{sorted({type(value).__name__ for value in found})}."
        )
    return tuple(str(value) for value in sorted(found))


def number_class(numbers: dict[str, int], value: Any) -> int:
    """Return the number of a class; raise NirvanaError for one that training lacks."""
    if str(value) not in numbers:
        raise NirvanaError(
            f"Validation has the class {value!r}, which no training row has. "
            f"Training has {sorted(numbers)[:30]}."
        )
    return numbers[str(value)]


def _encode(rows: Dataset, labels: tuple[str, ...], tokenizer: Any, config: DataConfig) -> Dataset:
    numbers = {name: number for number, name in enumerate(labels)}
    is_class = isinstance(rows.features[config.label_column], ClassLabel)

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts, classes = batch[config.text_column], batch[config.label_column]
        require_text(texts, config.text_column)
        encoded = dict(tokenizer(texts, truncation=True, max_length=config.max_length))
        encoded["labels"] = classes if is_class else [number_class(numbers, c) for c in classes]
        return encoded

    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False
    )
