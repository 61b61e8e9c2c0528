"""Rows of a classification: a text and its class."""

from __future__ import annotations

from typing import Any

from datasets import ClassLabel, Dataset

from pruning.tasks.class_names import ClassNames, number_classes, read_name
from pruning.tasks.data_config import DataConfig
from pruning.tasks.data_splits import Splits, require_text
from pruning.tasks.encoded_rows import EncodedRows


def encode_classes(
    splits: Splits, tokenizer: Any, config: DataConfig, model: tuple[str, ...] | None = None
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


def _encode(rows: Dataset, classes: ClassNames, tokenizer: Any, config: DataConfig) -> Dataset:
    declared = _declare(rows, config)

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts, values = batch[config.text_column], batch[config.label_column]
        require_text(texts, config.text_column)
        encoded = dict(tokenizer(texts, truncation=True, max_length=config.max_length))
        encoded["labels"] = [classes.numbers[read_name(v, declared, "A row")] for v in values]
        return encoded

    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False
    )
