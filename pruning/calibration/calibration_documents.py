"""The documents that calibration draws from: the embedded set, local files, or a data set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from pruning.calibration.calibration_config import CalibrationConfig, name_source
from pruning.errors import NirvanaError
from pruning.tasks.class_rows import name_rows
from pruning.tasks.data_config import EMBEDDED_DATASET, DataConfig, TaskName, find_column
from pruning.tasks.data_splits import load_splits, require_text

_EMBEDDED_CLASSES = "section"


class Document(NamedTuple):
    """A text, and where the source has them, the text to write for it and its class's name."""

    text: str
    target: str | None = None
    label: str | None = None


class Documents(list[Document]):
    """Documents, and the column that their text was found in."""

    def __init__(self, documents: Iterable[Document], text_column: str) -> None:
        super().__init__(documents)
        self.text_column = text_column


def load_documents(config: CalibrationConfig) -> Documents:
    """Return the documents of a source that have text, in its order.

    Raises:
        NirvanaError: the source cannot be loaded or is empty, a split or column is missing, a text
            or target is not a string, or a row of `label_column` has no class.
    """
    config = name_source(config)
    rows = _load_rows(config)
    column = _find_text_column(rows, config)
    texts = _read_texts(rows, column, config, "text_column")
    targets: list[Any] = [None] * len(texts)
    if config.target_column is not None:
        targets = _read_texts(rows, config.target_column, config, "target_column")
    labels = _read_labels(rows, config)
    documents = [
        Document(text, target, label)
        for text, target, label in zip(texts, targets, labels, strict=True)
        if text.strip() and (target is None or target.strip())
    ]
    if not documents:
        raise NirvanaError(
            f"The calibration source {config.source!r} has {len(rows)} rows and text in none of "
            f"them. Set calibration.source or calibration.text_column to one that has."
        )
    return Documents(documents, column)


def _load_rows(config: CalibrationConfig) -> Dataset:
    path = Path(config.source)
    if path.is_file() and path.stat().st_size == 0:
        raise NirvanaError(
            f"The calibration source {config.source} is empty. Expected a file with text."
        )
    splits = load_splits(
        DataConfig(
            dataset=config.source,
            subset=config.subset,
            task=_layout(config),
            train_split=config.split,
            text_column=config.text_column,
            target_column=config.target_column or DataConfig().target_column,
            label_column=config.label_column or "",
        )
    )
    if config.split not in splits:
        raise NirvanaError(
            f"The calibration source {config.source!r} has no split {config.split!r}; it has "
            f"{sorted(splits)}. Set calibration.split."
        )
    return splits[config.split]


def _find_text_column(rows: Dataset, config: CalibrationConfig) -> str:
    data = DataConfig(dataset=config.source, text_column=config.text_column)
    found = find_column(data, "text_column", rows.column_names)
    if not found:
        raise NirvanaError(
            f"The calibration source {config.source!r} has the columns {rows.column_names}, none "
            "of them with a usual name. Set calibration.text_column."
        )
    return found


def _layout(config: CalibrationConfig) -> TaskName:
    """Return the task whose txt files have the columns that are read."""
    if config.target_column is not None:
        return "seq2seq"
    return "causal-lm" if config.label_column is None else "classification"


def _read_texts(rows: Dataset, column: str, config: CalibrationConfig, setting: str) -> list[str]:
    _require_column(rows, column, config, setting)
    texts = [_join("" if text is None else text) for text in rows[column]]
    require_text(texts, column, config.split)
    return texts


def _join(text: Any) -> Any:
    """Return a list of words as the text that token classification makes of it."""
    is_words = isinstance(text, list) and all(isinstance(word, str) for word in text)
    return " ".join(text) if is_words else text


def _read_labels(rows: Dataset, config: CalibrationConfig) -> list[str | None]:
    """Return the classes' names, where the source is known to have some."""
    column = config.label_column
    if column is None and config.source == EMBEDDED_DATASET:
        column = _EMBEDDED_CLASSES
    if column is None:
        return [None] * len(rows)
    _require_column(rows, column, config, "label_column")
    data = DataConfig(dataset=config.source, label_column=column)
    return [*name_rows(rows, data, config.split)]


def _require_column(rows: Dataset, column: str, config: CalibrationConfig, setting: str) -> None:
    if column not in rows.column_names:
        raise NirvanaError(
            f"The calibration source {config.source!r} has no column {column!r}; it has "
            f"{rows.column_names}. Set calibration.{setting}."
        )
