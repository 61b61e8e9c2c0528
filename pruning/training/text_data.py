"""Labelled text: the embedded set, local files, or anything that `datasets` can load."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from pruning.errors import NirvanaError
from pruning.training.data_config import EMBEDDED_DATASET, DataConfig

_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "csv"}
_EMBEDDED_FOLDER = Path(__file__).parent.parent / "data" / "debian_sections"
_HELD_OUT = 0.1  # of a single local file, for validation


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """Tokenised rows with `input_ids`, `attention_mask` and `labels`, and the classes' names."""

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...]


def load_text(config: DataConfig, tokenizer: Any) -> LabelledText:
    """Load, check and tokenise the data set of `config`.

    Raises:
        NirvanaError: the data set cannot be loaded, a split or column is missing, a text is not a
            string, or validation has a class that training lacks.
    """
    splits = _load_splits(config)
    train = _take(splits, config.train_split, config.max_train_rows, config)
    validation = _take(splits, config.validation_split, config.max_validation_rows, config)
    labels = _find_labels(splits[config.train_split], config.label_column)
    return LabelledText(
        train=_encode(train, labels, tokenizer, config),
        validation=_encode(validation, labels, tokenizer, config),
        labels=labels,
    )


def collate(tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad rows to the longest of the batch."""
    features = [{k: v for k, v in row.items() if k != "labels"} for row in rows]
    batch: dict[str, torch.Tensor] = dict(tokenizer.pad(features, return_tensors="pt"))
    batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def _load_splits(config: DataConfig) -> DatasetDict:
    try:
        if config.dataset == EMBEDDED_DATASET:
            return _load_local(_EMBEDDED_FOLDER, config)
        if Path(config.dataset).exists():
            return _load_local(Path(config.dataset), config)
        if Path(config.dataset).suffix in _FORMATS:
            raise NirvanaError(f"There is no data file at {config.dataset}.")
        return load_dataset(config.dataset, config.subset)
    except NirvanaError:
        raise
    except Exception as error:
        raise NirvanaError(
            f"Cannot load the data set {config.dataset!r}: {_find_cause(error)} Expected "
            f"{EMBEDDED_DATASET!r}, a local csv/json/jsonl/parquet/txt file or folder of them, or "
            "a name that `datasets` can load."
        ) from error


def _find_cause(error: BaseException) -> str:
    while error.__cause__ is not None:  # `datasets` wraps what went wrong
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _load_local(path: Path, config: DataConfig) -> DatasetDict:
    if path.is_dir():
        wanted = (config.train_split, config.validation_split)
        files = {s: str(f) for s in wanted for f in path.glob(f"{s}.*") if f.suffix in _FORMATS}
        missing = [split for split in wanted if split not in files]
        if missing:
            raise NirvanaError(
                f"Expected {missing[0]}.csv, .json, .jsonl, .parquet or .txt in {path}, found "
                f"{sorted(f.name for f in path.iterdir())}."
            )
        return DatasetDict({s: _load_file(Path(file), config) for s, file in files.items()})
    if path.suffix not in _FORMATS:
        raise NirvanaError(f"Expected a file ending in {', '.join(_FORMATS)}, got {path}.")
    halves = _load_file(path, config).train_test_split(test_size=_HELD_OUT, seed=0)
    return DatasetDict(
        {config.train_split: halves["train"], config.validation_split: halves["test"]}
    )


def _load_file(path: Path, config: DataConfig) -> Dataset:
    layout: dict[str, Any] = {}
    if path.suffix == ".txt":  # a class, a tab and a text a line
        names = [config.label_column, config.text_column]
        layout = {"sep": "\t", "column_names": names, "quoting": csv.QUOTE_NONE}
    return load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train", **layout)


def _take(
    splits: Mapping[str, Dataset], split: str, max_rows: int | None, config: DataConfig
) -> Dataset:
    if split not in splits:
        raise NirvanaError(
            f"The data set {config.dataset!r} has no split {split!r}; it has {sorted(splits)}. "
            "Set data.train_split and data.validation_split."
        )
    rows = splits[split]
    for column in (config.text_column, config.label_column):
        if column not in rows.column_names:
            raise NirvanaError(
                f"The data set {config.dataset!r} has no column {column!r}; it has "
                f"{rows.column_names}. Set data.text_column and data.label_column."
            )
    if len(rows) == 0:
        raise NirvanaError(f"The split {split!r} of {config.dataset!r} is empty.")
    return rows if max_rows is None else rows.select(range(min(max_rows, len(rows))))


def _find_labels(train: Dataset, column: str) -> tuple[str, ...]:
    feature = train.features[column]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    values = set(train[column])
    if None in values or not all(isinstance(value, str | int) for value in values):
        raise NirvanaError(
            f"The column {column!r} must hold a class name or an integer in every row, found "
            f"{sorted({type(value).__name__ for value in values})}."
        )
    return tuple(str(value) for value in sorted(values))


def _encode(rows: Dataset, labels: tuple[str, ...], tokenizer: Any, config: DataConfig) -> Dataset:
    numbers = {name: number for number, name in enumerate(labels)}
    is_class = isinstance(rows.features[config.label_column], ClassLabel)

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts, classes = batch[config.text_column], batch[config.label_column]
        if not all(isinstance(text, str) for text in texts):
            raise NirvanaError(f"The column {config.text_column!r} must hold text in every row.")
        encoded = dict(tokenizer(texts, truncation=True, max_length=config.max_length))
        encoded["labels"] = classes if is_class else [_number(numbers, c) for c in classes]
        return encoded

    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False
    )


def _number(numbers: dict[str, int], value: Any) -> int:
    if str(value) not in numbers:
        raise NirvanaError(
            f"Validation has the class {value!r}, which no training row has. "
            f"Training has {sorted(numbers)[:30]}."
        )
    return numbers[str(value)]
