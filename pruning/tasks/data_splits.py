"""Rows to train and to validate on: the embedded set, local files, or what `datasets` can load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset

from pruning.errors import NirvanaError
from pruning.tasks.data_config import (
    EMBEDDED_DATASET,
    DataConfig,
    find_column,
    find_format,
    require_data,
)
from pruning.tasks.data_files import read_file

_EMBEDDED_FOLDER = Path(__file__).parent.parent / "data" / "debian_sections"
_SHOWN = 60  # characters of a value
_HELD_OUT = 0.1  # of a single local file, for validation
# Columns of a txt file, which names none.
_UNNAMED = {"label_column": "label", "text_column": "text", "target_column": "target"}

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
    require_data(config.dataset)
    with _explain_loading(config):
        if config.dataset == EMBEDDED_DATASET:
            return _load_local(_EMBEDDED_FOLDER, config)
        if Path(config.dataset).exists():
            return _load_local(Path(config.dataset), config)
        return load_dataset(config.dataset, config.subset)


def load_scored_rows(config: DataConfig) -> Splits:
    """Load the rows that a finished model is scored on, in place of all splits.

    These are all rows of a local file, and `validation_split` of a folder or of a data set.

    Raises:
        NirvanaError: they cannot be loaded, or there are none.
    """
    require_data(config.dataset)
    path = Path(config.dataset)
    if config.dataset == EMBEDDED_DATASET or not path.exists():
        splits = load_splits(config)
        _require_split(splits, config.validation_split, config)
        rows = splits[config.validation_split]
    else:
        with _explain_loading(config):
            file = _find_file(path, config.validation_split) if path.is_dir() else path
            rows = _load_file(file, config)
    if config.max_validation_rows is not None:
        rows = rows.select(range(min(config.max_validation_rows, len(rows))))
    if len(rows) == 0:
        raise NirvanaError(f"{config.dataset} has no rows. Expected one or more to score.")
    return Splits(train=rows.select([0]), validation=rows, whole_train=rows)


@contextmanager
def _explain_loading(config: DataConfig) -> Iterator[None]:
    try:
        yield
    except NirvanaError:
        raise
    except Exception as error:
        refuse_cache(error)
        raise NirvanaError(
            f"Cannot load the data set {config.dataset!r}: {_find_cause(error)} Expected "
            f"{EMBEDDED_DATASET!r}, a local csv/tsv/json/jsonl/parquet/txt file or folder of them, "
            "or a name that `datasets` can load."
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


def require_text(values: Iterable[object], column: str, split: str = "") -> None:
    """Raise NirvanaError for a value of `column` that is not text; `split` has all the values."""
    for row, value in enumerate(values):
        if not isinstance(value, str):
            place = f"row {row} of {split!r}" if split else "a row"
            raise NirvanaError(
                f"The column {column!r} must hold text in every row; {place} has "
                f"{str(value)[:_SHOWN]!r} ({type(value).__name__}). Correct or remove that row."
            )


def _find_cause(error: BaseException) -> str:
    while error.__cause__ is not None:  # `datasets` wraps what went wrong
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _load_local(path: Path, config: DataConfig) -> DatasetDict:
    if path.is_dir():
        wanted = (config.train_split, config.validation_split)
        files = {split: _find_file(path, split) for split in wanted}
        return DatasetDict({split: _load_file(file, config) for split, file in files.items()})
    rows = _load_file(path, config)
    if len(rows) < 2:
        raise NirvanaError(
            f"{path} has {len(rows)} rows: too few to leave some out for validation. Expected 2 or "
            "more (in a txt file a row is a line), or a folder with train.* and validation.*."
        )
    halves = rows.train_test_split(test_size=_HELD_OUT, seed=0)
    train, validation = _keep_rare_classes(halves["train"], halves["test"], config)
    if len(validation) == 0:
        raise NirvanaError(
            f"{path} has {len(rows)} rows and no class with enough of them to leave one out for "
            "validation. Expected more rows per class, or a folder with train.* and validation.*."
        )
    return DatasetDict({config.train_split: train, config.validation_split: validation})


def _find_file(folder: Path, split: str) -> Path:
    """Return the one file of a split."""
    named = [path for path in sorted(folder.iterdir()) if path.stem.lower() == split.lower()]
    files = [path for path in named if path.is_file() and find_format(path) is not None]
    if not files:
        raise NirvanaError(
            f"Expected {split}.csv, .tsv, .json, .jsonl, .parquet or .txt in {folder}, "
            f"found {sorted(file.name for file in folder.iterdir())}."
        )
    if len(files) > 1:
        raise NirvanaError(
            f"{folder} has several files for {split}: {', '.join(file.name for file in files)}. "
            "Leave one of them there."
        )
    return files[0]


def _keep_rare_classes(
    train: Dataset, validation: Dataset, config: DataConfig
) -> tuple[Dataset, Dataset]:
    """Move validation rows with classes that training lacks back to training: the split is ours."""
    for setting in ("label_column", "tags_column"):
        named = setting == "tags_column" or getattr(config, setting)
        column = (
            getattr(config, setting) if named else find_column(config, setting, train.column_names)
        )
        if column not in train.column_names:
            continue
        known = {name for value in train[column] for name in _name_all(value)}
        lacking = [not _name_all(value) <= known for value in validation[column]]
        if any(lacking):
            moved = validation.select([i for i, lacks in enumerate(lacking) if lacks])
            kept = [i for i, lacks in enumerate(lacking) if not lacks]
            train, validation = concatenate_datasets([train, moved]), validation.select(kept)
    return train, validation


def _name_all(value: object) -> set[str]:
    return {str(each) for each in value} if isinstance(value, list) else {str(value)}


def _load_file(path: Path, config: DataConfig) -> Dataset:
    columns: tuple[str, ...] = ()
    if find_format(path) == ".txt":
        if config.task not in _TXT_COLUMNS:
            raise NirvanaError(
                f"A txt file cannot hold rows of {config.task}; {path} must be json, jsonl or "
                "parquet."
            )
        settings = _TXT_COLUMNS[config.task]
        columns = tuple(getattr(config, setting) or _UNNAMED[setting] for setting in settings)
    return read_file(path, columns)


def refuse_cache(error: BaseException) -> None:
    """Name the cache folder where that is what cannot be written: the data are not to blame.

    Raises:
        NirvanaError: it cannot.
    """
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    while error.__cause__ is not None:
        error = error.__cause__
    place = getattr(error, "filename", None)
    if not isinstance(error, OSError) or place is None:
        return
    inside = (
        Path(str(place)) == cache
        or Path(str(place)) in cache.parents
        or (cache in Path(str(place)).parents)
    )
    if inside:
        raise NirvanaError(
            f"The cache folder of `datasets`, {cache}, cannot be written: {error.strerror}. Set "
            "HF_DATASETS_CACHE (or HF_HOME) to a folder that can."
        ) from error


def _take(
    splits: Mapping[str, Dataset],
    split: str,
    max_rows: int | None,
    config: DataConfig,
    columns: tuple[str, ...],
) -> Dataset:
    _require_split(splits, split, config)
    require_columns(splits[split], config, columns)
    rows = splits[split]
    if len(rows) == 0:
        raise NirvanaError(f"The split {split!r} of {config.dataset!r} is empty.")
    return rows if max_rows is None else rows.select(range(min(max_rows, len(rows))))


def _require_split(splits: Mapping[str, Dataset], split: str, config: DataConfig) -> None:
    if split not in splits:
        raise NirvanaError(
            f"The data set {config.dataset!r} has no split {split!r}; it has {sorted(splits)}. "
            "Set data.train_split and data.validation_split."
        )


def _refuse_other_separator(rows: Dataset, config: DataConfig) -> None:
    """Say what separates the columns of a table that was read as a single one, and what should."""
    names = rows.column_names
    found = [mark for mark in (";", "\t", "|", ",") if len(names) == 1 and mark in names[0]]
    if found and names[0] not in (config.text_column, config.label_column):
        raise NirvanaError(
            f"The data set {config.dataset!r} has the single column {names[0]!r}; {found[0]!r} "
            "seems to separate its columns. Expected commas in a .csv file and tabs in a .tsv "
            "file: save it that way."
        )


def require_columns(rows: Dataset, config: DataConfig, columns: Iterable[str]) -> None:
    """Raise NirvanaError unless the rows have the columns that these fields of `config` name."""
    columns = tuple(columns)
    settings = " and ".join(f"data.{column}" for column in columns)
    _refuse_other_separator(rows, config)
    for column in (getattr(config, name) for name in columns):
        if not column:
            raise NirvanaError(
                f"The data set {config.dataset!r} has the columns {rows.column_names}, none of "
                f"them with a usual name. Set {settings}, or data.task if the task is another."
            )
        if column not in rows.column_names:
            raise NirvanaError(
                f"The data set {config.dataset!r} has no column {column!r}; it has "
                f"{rows.column_names}. Set {settings}, or data.task if the task is another."
            )
