"""Rows to train and to validate on: the embedded set, local files, or what `datasets` can load."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

from pruning.errors import NirvanaError
from pruning.training.data_config import EMBEDDED_DATASET, DataConfig

_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "csv"}
_EMBEDDED_FOLDER = Path(__file__).parent.parent / "data" / "debian_sections"
_HELD_OUT = 0.1  # of a single local file, for validation

# What stands in a line of a txt file, parted by tabs.
_TXT_COLUMNS: Mapping[str | None, tuple[str, ...]] = {
    None: ("label_column", "text_column"),
    "classification": ("label_column", "text_column"),
    "seq2seq": ("text_column", "target_column"),
    "masked-lm": ("text_column",),
    "causal-lm": ("text_column",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Raw rows; `whole_train` has also those beyond max_train_rows."""

    train: Dataset
    validation: Dataset
    whole_train: Dataset


def load_splits(config: DataConfig) -> DatasetDict:
    """Load all splits of the data set of `config`.

    Raises:
        NirvanaError: it cannot be loaded.
    """
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


def take_splits(
    splits: Mapping[str, Dataset], config: DataConfig, columns: Iterable[str]
) -> Splits:
    """Return the two splits that `config` names, cut to their row limits.

    `columns` are the fields of DataConfig that name the needed columns.

    Raises:
        NirvanaError: a split or column is missing, or a split is empty.
    """
    columns = tuple(columns)
    return Splits(
        train=_take(splits, config.train_split, config.max_train_rows, config, columns),
        validation=_take(
            splits, config.validation_split, config.max_validation_rows, config, columns
        ),
        whole_train=splits[config.train_split],
    )


def require_text(values: Iterable[Any], column: str) -> None:
    """Raise NirvanaError for a value of `column` that is not text."""
    if not all(isinstance(value, str) for value in values):
        raise NirvanaError(f"The column {column!r} must hold text in every row.")


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
    rows = _load_file(path, config)
    if len(rows) < 2:
        raise NirvanaError(
            f"{path} has {len(rows)} rows: too few to leave some out for validation. Expected 2 or "
            "more (in a txt file a row is a line), or a folder with train.* and validation.*."
        )
    halves = rows.train_test_split(test_size=_HELD_OUT, seed=0)
    return DatasetDict(
        {config.train_split: halves["train"], config.validation_split: halves["test"]}
    )


def _load_file(path: Path, config: DataConfig) -> Dataset:
    if path.suffix == ".txt":
        return _load_lines(path, config)
    return load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train")


def _load_lines(path: Path, config: DataConfig) -> Dataset:
    if config.task not in _TXT_COLUMNS:
        raise NirvanaError(
            f"A txt file cannot hold rows of {config.task}; {path} must be json, jsonl or parquet."
        )
    names = [getattr(config, column) for column in _TXT_COLUMNS[config.task]]
    if len(names) == 1:  # a text a line, tabs and all
        lines = load_dataset("text", data_files=str(path), split="train")
        return lines if names[0] == "text" else lines.rename_column("text", names[0])
    layout: dict[str, Any] = {"sep": "\t", "column_names": names, "quoting": csv.QUOTE_NONE}
    return load_dataset("csv", data_files=str(path), split="train", **layout)


def _take(
    splits: Mapping[str, Dataset],
    split: str,
    max_rows: int | None,
    config: DataConfig,
    columns: tuple[str, ...],
) -> Dataset:
    if split not in splits:
        raise NirvanaError(
            f"The data set {config.dataset!r} has no split {split!r}; it has {sorted(splits)}. "
            "Set data.train_split and data.validation_split."
        )
    rows = splits[split]
    settings = " and ".join(f"data.{column}" for column in columns)
    for column in (getattr(config, name) for name in columns):
        if column not in rows.column_names:
            raise NirvanaError(
                f"The data set {config.dataset!r} has no column {column!r}; it has "
                f"{rows.column_names}. Set {settings}, or data.task if the task is another."
            )
    if len(rows) == 0:
        raise NirvanaError(f"The split {split!r} of {config.dataset!r} is empty.")
    return rows if max_rows is None else rows.select(range(min(max_rows, len(rows))))
