"""Reads local data files. No type is guessed: what a text file holds is text.

A reader that guesses takes the country code NA for a missing value, and the area code 0111 for 111.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
from datasets import Dataset, load_dataset

from pruning.errors import NirvanaError
from pruning.tasks.data_config import find_format

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_LONGEST_ROW_SHOWN = 80


def read_file(path: Path, txt_columns: tuple[str, ...]) -> Dataset:
    """Read one file. The columns of csv, tsv and txt files are text, whatever stands in them.

    Args:
        txt_columns: What the parts of a txt file's line are, separated by tabs; with one column,
            each line is its value.

    Raises:
        NirvanaError: the file is empty or malformed; the message has the row.
    """
    suffix = find_format(path)
    if suffix == ".parquet":
        found: Dataset = load_dataset("parquet", data_files=str(path), split="train")
        return found
    text = _read_text(path)
    if suffix in (".json", ".jsonl"):
        return _read_json(path, text)
    if suffix == ".txt":
        return _read_lines(path, text, txt_columns)
    return _read_table(path, text, _DELIMITERS[str(suffix)])


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise NirvanaError(
            f"{path} is not UTF-8: line {row} has the byte {content[error.start]:#x}. Save it as "
            "UTF-8."
        ) from error


def _read_table(path: Path, text: str, delimiter: str) -> Dataset:
    header = next(csv.reader(io.StringIO(text, newline=None), delimiter=delimiter), None)
    if not header:
        raise NirvanaError(f"{path} is empty. Expected a line of column names, then rows.")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise NirvanaError(f"{path} has the column {twice[0]!r} twice. Rename one of them.")
    _refuse_lost_rows(path, text, delimiter)
    content = text.encode()
    try:
        table = pa_csv.read_csv(
            io.BytesIO(content),
            # One block: a row that is longer than a block is an error.
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=min(len(content) + 1, 2**31 - 1)
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(header) > 1
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise NirvanaError(
            f"{path} is malformed: {error}. Quote values that hold {delimiter!r} or line breaks."
        ) from error
    return Dataset(table)


def _refuse_lost_rows(path: Path, text: str, delimiter: str) -> None:
    """Refuse a quotation mark that is closed lines later, in the middle of another row's value.

    It was no quotation; a reader that takes it for one makes a single row of these lines:

        "so good,pos
        so "bad",neg     -> so good,pos\\nso bad",neg

    Raises:
        NirvanaError: there is one; the message has the lines.
    """
    if '"' not in text:
        return
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
    longest = csv.field_size_limit(len(text) + 1)
    try:
        while True:
            first = reader.line_num + 1
            try:
                if next(reader, None) is None:
                    return
            except csv.Error as error:
                if reader.line_num > first:
                    raise NirvanaError(
                        f"{path} is malformed: line {first} opens a quotation, which ends within a "
                        f"value in line {reader.line_num}, so that these lines would become one "
                        "row. Write a quotation mark that belongs to a value twice, and put the "
                        "value in quotation marks."
                    ) from error
    finally:
        csv.field_size_limit(longest)


def _read_lines(path: Path, text: str, columns: tuple[str, ...]) -> Dataset:
    """Split lines at tabs; quotation marks are characters like any other."""
    rows: list[list[str]] = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        line = line.removesuffix("\r")
        if len(columns) > 1 and not line.strip():
            continue
        parts = [line] if len(columns) == 1 else line.split("\t")
        if len(parts) != len(columns):
            raise NirvanaError(
                f"Line {number} of {path} has {len(parts)} parts separated by tabs, expected "
                f"{len(columns)} ({', '.join(columns)}): {line[:_LONGEST_ROW_SHOWN]!r}."
            )
        rows.append(parts)
    values = zip(*rows, strict=True) if rows else ([] for _ in columns)
    return Dataset.from_dict(dict(zip(columns, map(list, values), strict=True)))


def _read_json(path: Path, text: str) -> Dataset:
    """Read a list of objects, or an object per line. Their types are JSON's own."""
    rows: list[Any] = []
    if text.lstrip().startswith("["):
        rows = _decode(text, path, "The list")
        if not isinstance(rows, list):
            raise NirvanaError(f"{path} must hold a list of objects.")
    else:
        # Not splitlines: JSON's strings may hold what that splits at, such as U+2028.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                rows.append(_decode(line, path, f"Line {number}"))
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise NirvanaError(
                f"Row {number} of {path} is {str(row)[:_LONGEST_ROW_SHOWN]!r}. Expected an object "
                "with a value for each column."
            )
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise NirvanaError(
            f"A column of {path} holds values of several types: {error}. Write each column in one "
            "type."
        ) from error


def _decode(text: str, path: Path, what: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NirvanaError(f"{what} of {path} is not JSON: {error}.") from error
