"""Which text to fine-tune and validate on, and for which task. No torch, no datasets here."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

EMBEDDED_DATASET = "debian-sections"
EMBEDDED_COLUMNS = {"text_column": "description", "label_column": "section"}
# Endings of the local files that are read.
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
# What other people call these columns.
_USUAL_NAMES = {
    "text_column": ("text", "sentence", "content", "document", "review", "description"),
    "label_column": ("label", "labels", "class", "category", "section"),
}

TaskName = Literal[
    "classification",
    "token-classification",
    "question-answering",
    "seq2seq",
    "masked-lm",
    "causal-lm",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Name a data set, its task and its columns.

        data:
          dataset: rows.csv
          text_column: text
          label_column: label
          max_length: 128

    Attributes:
        dataset: Data set: 'debian-sections' (inside the package), a local csv, tsv, json, jsonl or
            parquet file, a txt file (per line: class, tab, text; for seq2seq: text, tab, target;
            for language models: a text), a folder with train.* and validation.*, or a name that
            `datasets` can load.
        task: Task. By default classification if the data has a label column, otherwise the task of
            the model's head.
        subset: Configuration name of a `datasets` data set.
        train_split: Split to fine-tune on.
        validation_split: Split to validate on.
        text_column: Column with the text; by default found by its usual names, such as `text`.
        label_column: Column with the class (name or integer); by default found by its usual names,
            such as `label`.
        target_column: Column with the text to generate (seq2seq).
        tokens_column: Column with a list of words (token-classification).
        tags_column: Column with a tag for each word (token-classification).
        question_column: Column with the question (question-answering).
        context_column: Column with the text to search (question-answering).
        answers_column: Column with {text, answer_start}, as in SQuAD (question-answering).
        max_length: Longest input in tokens.
        max_train_rows: Use only the first N training rows.
        max_validation_rows: Use only the first N validation rows.
        metric: A metric of your own as package.module:function. It is called with predictions and
            labels and returns names and numbers, which are added to the results.
    """

    dataset: str = EMBEDDED_DATASET
    task: TaskName | None = None
    subset: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    text_column: str = ""
    label_column: str = ""
    target_column: str = "target"
    tokens_column: str = "tokens"
    tags_column: str = "ner_tags"
    question_column: str = "question"
    context_column: str = "context"
    answers_column: str = "answers"
    max_length: int = 64
    max_train_rows: int | None = None
    max_validation_rows: int | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("max_length", "max_train_rows", "max_validation_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise NirvanaError(f"{name} must be 1 or more, got {value}.")
        if self.metric is not None and not all(self.metric.partition(":")):
            raise NirvanaError(f"metric must be package.module:function, got {self.metric!r}.")


def find_format(path: Path) -> str | None:
    """Return a data file's ending in lower case; None for one that is not read."""
    suffix = path.suffix.lower()
    return suffix if suffix in SUFFIXES else None


def require_data(dataset: str) -> None:
    """Raise NirvanaError for the name of a local file that is not there, or is not read."""
    path = Path(dataset)
    if path.is_file() and find_format(path) is None:
        raise NirvanaError(f"Expected a file ending in {', '.join(SUFFIXES)}, got {dataset}.")
    if not path.exists() and find_format(path) is not None:
        raise NirvanaError(f"There is no data file at {dataset}.")


def find_column(config: DataConfig, setting: str, columns: Collection[str]) -> str:
    """Return the column that a setting names, or that has a usual name; "" where there is none.

    Raises:
        NirvanaError: several columns have usual names.
    """
    named: str = getattr(config, setting)
    if named:
        return named
    if config.dataset == EMBEDDED_DATASET:
        return EMBEDDED_COLUMNS[setting]
    lower = {column.lower(): column for column in columns}
    found = [lower[name] for name in _USUAL_NAMES[setting] if name in lower]
    if len(found) > 1:
        raise NirvanaError(
            f"The data set {config.dataset!r} has the columns {', '.join(found)}, each of which "
            f"may be meant. Set data.{setting} to one of them."
        )
    return found[0] if found else ""


def find_columns(config: DataConfig, columns: Collection[str]) -> DataConfig:
    """Return the config with the columns of text and classes named, where they can be found."""
    return replace(
        config,
        text_column=find_column(config, "text_column", columns),
        label_column=find_column(config, "label_column", columns),
    )
