"""Classes are matched by name, and rows without one are named: never by the order of anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoTokenizer

from pruning.errors import NirvanaError
from pruning.tasks.class_names import number_classes
from pruning.tasks.data_config import DataConfig
from pruning.tasks.tasks import recognise_task
from pruning.tasks.text_data import check_text, load_text
from tests.pruning.conftest import tiny_model_dir as tiny_model_dir
from tests.pruning.training.tiny_tasks import make_headed

# What str.splitlines takes for the end of a line, and JSON for a character of a text.
SEPARATORS = [("\u2028", "x"), ("\x85", "y"), ("\u2029", "x")]
TEXTS = ["play dice", "send it", "add one", "roll on"]


@pytest.fixture
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def write_split(folder: Path, split: str, names: list[str] | None, labels: list[Any]) -> None:
    texts = [TEXTS[i % len(TEXTS)] for i in range(len(labels))]
    features = None
    if names is not None:
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = Dataset.from_dict({"text": texts, "label": labels}, features=features)
    rows.to_parquet(folder / f"{split}.parquet")


def test_a_split_that_orders_its_classes_otherwise_is_matched_by_name(
    tmp_path: Path, tokenizer: Any
) -> None:
    write_split(tmp_path, "train", ["neg", "pos"], [0, 1, 0, 1])
    write_split(tmp_path, "validation", ["pos", "neg"], [0, 1, 0, 1])  # pos, neg, pos, neg
    text = load_text(DataConfig(dataset=str(tmp_path)), tokenizer)
    assert text.labels == ("neg", "pos")
    assert text.train["labels"] == [0, 1, 0, 1] and text.validation["labels"] == [1, 0, 1, 0]


def test_a_split_of_other_classes_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    write_split(tmp_path, "train", ["neg", "pos"], [0, 1])
    write_split(tmp_path, "validation", ["neg", "neutral", "pos"], [0, 1])
    with pytest.raises(NirvanaError, match="Validation has the class 'neutral' in column 'label'"):
        load_text(DataConfig(dataset=str(tmp_path)), tokenizer)


@pytest.mark.parametrize(
    ("names", "labels", "reason"),
    [
        (["neg", "pos"], [0, 1, -1], "row 2 of 'train', has -1, which is none of the 2 classes"),
        (None, ["a", "b", None], "row 2 of 'train', has None"),
        (None, [["a"], ["b"], ["a"]], r"row 0 of 'train', has \['a'\]"),
        (None, ["a", "b", " "], "row 2 of 'train', has ' '"),
        (None, [0.5, 1.0, 2.0], "row 0 of 'train', has 0.5"),
        (None, [0, 1, -100], "row 2 of 'train', has -100, by which losses are told"),
        (None, [1.0, 2.0, float("nan")], "row 2 of 'train', has (nan|None)"),
        (None, ["a", "a", "a"], "has the class 'a' in every training row"),
        (None, ["Pos", "pos ", "neg"], "differ by case or blanks alone"),
    ],
)
def test_rows_without_a_class_are_named_before_any_training(
    tmp_path: Path, tokenizer: Any, names: list[str] | None, labels: list[Any], reason: str
) -> None:
    write_split(tmp_path, "train", names, labels)
    write_split(tmp_path, "validation", names, labels[:2])
    with pytest.raises(NirvanaError, match=reason):
        load_text(DataConfig(dataset=str(tmp_path)), tokenizer)


def map_on(model: tuple[str, ...], *used: str, declared: tuple[str, ...] | None = None) -> Any:
    return number_classes(used, used[:1], declared=declared, model=model, column="label")


def test_the_models_numbers_are_taken_by_name() -> None:
    found = map_on(("python", "licence", "changelog"), "changelog", "licence", "python")
    assert found.labels == ("python", "licence", "changelog")
    assert found.numbers == {"python": 0, "licence": 1, "changelog": 2}
    assert map_on(("NEG", "pos "), "Pos", "neg").numbers == {"Pos": 1, "neg": 0}
    assert map_on(("b", "a"), "0", "1").numbers == {"0": 0, "1": 1}
    assert map_on(("LABEL_0", "LABEL_1"), "1", "0").numbers["1"] == 1
    declared = map_on(("LABEL_0", "LABEL_1"), "pos", "neg", declared=("neg", "pos"))
    assert declared.numbers == {"neg": 0, "pos": 1} and declared.labels == ("neg", "pos")


@pytest.mark.parametrize(
    ("model", "used", "reason"),
    [
        (("LABEL_0", "LABEL_1"), ("neg", "pos"), "does not name its 2 classes"),
        (("a", "A"), ("A ", "a "), "does not have|differ by case"),
        (("neg", "pos"), ("neg", "neutral"), "has the class 'neutral'"),
        (("neg", "pos"), ("0", "2"), "has the class 2, and"),
        (("neg", "pos"), ("-1", "0", "1"), "has the class -1, and"),
        (("LABEL_0", "LABEL_1"), ("-1", "1"), "does not name its 2 classes"),
        (("LABEL_0", "LABEL_1"), ("False", "True"), "does not name its 2 classes"),
        (("1", "2", "3"), ("0", "1", "2"), "'1' is a name and a number of two classes"),
    ],
)
def test_classes_that_cannot_be_matched_are_refused(
    model: tuple[str, ...], used: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(NirvanaError, match=reason):
        map_on(model, *used)


def test_integers_are_numbered_by_size() -> None:
    found = number_classes([str(n) for n in (10, 9, 2)], [], column="label")
    assert found.labels == ("2", "9", "10")


def test_floats_and_booleans_are_the_integers_and_words_that_they_are(
    tmp_path: Path, tokenizer: Any
) -> None:
    for values, labels in (([0.0, 1.0], ("0", "1")), ([True, False], ("False", "True"))):
        for split in ("train", "validation"):
            write_split(tmp_path, split, None, values)
        assert load_text(DataConfig(dataset=str(tmp_path)), tokenizer).labels == labels


def test_what_was_found_is_told_before_any_work(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    rows = [f"play {i},{label}" for i in range(10) for label in (-1, 0, 1)]
    data.write_text("\n".join(["Review,Category", *rows]))
    first, second = check_text(DataConfig(dataset=str(data)), None).told
    assert first == (
        "data: classification by text_column 'Review', label_column 'Category' with 3 classes "
        "(-1, 0, 1), 27 training and 3 validation rows"
    )
    assert "-1 counts as a class of its own" in second


def test_names_that_a_model_lacks_are_told_with_the_order_they_get(tmp_path: Path) -> None:
    model = make_headed("classification", num_labels=2)
    for split in ("train", "validation"):
        write_split(tmp_path, split, ["neg", "pos"], [0, 1])
    found = check_text(DataConfig(dataset=str(tmp_path)), recognise_task(model), model)
    assert "the model does not name its classes; they are taken in the order" in found.told[1]
    assert found.told[1].endswith("declares: neg, pos")


def test_a_text_that_is_none_is_named_before_any_work(tmp_path: Path) -> None:
    rows = [{"text": "play", "label": "a"}, {"text": None, "label": "b"}]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(NirvanaError, match=r"'text' must hold text in every row; row 1 of 'train'"):
        check_text(DataConfig(dataset=str(tmp_path)), None)


def test_lines_of_json_end_at_line_breaks_alone(tmp_path: Path, tokenizer: Any) -> None:
    lines = [f'{{"text": "a{mark}b", "label": "{label}"}}' for mark, label in SEPARATORS]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_bytes("\r\n".join(lines).encode())
    assert len(load_text(DataConfig(dataset=str(tmp_path)), tokenizer).train) == len(lines)


def test_a_row_longer_than_a_megabyte_is_read(tmp_path: Path, tokenizer: Any) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(f"text,label\na,x\n{'play ' * 300_000},y\n")
    assert load_text(DataConfig(dataset=str(tmp_path)), tokenizer).labels == ("x", "y")


def test_rare_classes_of_a_single_file_stay_in_training(tmp_path: Path, tokenizer: Any) -> None:
    rows = ["text,label"] + [f"play {i},common" for i in range(40)]
    rows += [f"send {i},rare{i}" for i in range(10)]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    text = load_text(DataConfig(dataset=str(tmp_path / "data.csv")), tokenizer)
    assert len(text.labels) == 11
    assert set(text.train["labels"]) == set(range(11))
    assert len(text.train) + len(text.validation) == 50


CSVS: dict[str, tuple[str, tuple[str, ...]]] = {
    "NA": ("text,label\na,NA\nb,US\n", ("NA", "US")),
    "None": ("text,label\na,None\nb,toxic\n", ("None", "toxic")),
    "zeros": ("text,label\na,0111\nb,0115\n", ("0111", "0115")),
    "TRUE": ("text,label\na,FALSE\nb,TRUE\n", ("FALSE", "TRUE")),
    "versions": ("text,label\na,3.1\nb,3.10\n", ("3.1", "3.10")),
    "digits": ("text,label\n007,a\n1e5,b\n", ("a", "b")),
    "null": ("text,label\nnull,a\nnan,b\n", ("a", "b")),
    "bom": ("\ufefftext,label\na,x\nb,y\n", ("x", "y")),
    "crlf": ("text,label\r\na,x\r\nb,y\r\n", ("x", "y")),
    "cr": ("text,label\ra,x\rb,y\r", ("x", "y")),
    "quoted": ('text,label\n"a\nb, c",x\n"d",y\n', ("x", "y")),
    "marks": ('text,label\nan "a",x\n"so" b,y\n', ("x", "y")),
    "long": (f'text,label\n"a\n{"b " * 90_000}",x\nc,y\n', ("x", "y")),
}


@pytest.mark.parametrize("name", CSVS)
@pytest.mark.parametrize("suffix", ["csv", "CSV", "tsv", "txt"])
def test_what_a_text_file_holds_is_text(
    tmp_path: Path, tokenizer: Any, name: str, suffix: str
) -> None:
    content, labels = CSVS[name]
    if suffix == "tsv":
        content = content.replace(", c", " c").replace(",", "\t")
    if suffix == "txt":
        if name in ("bom", "cr", "quoted", "long"):
            pytest.skip("a txt file has neither a header nor quotes, and its lines end in \\n")
        lines = [line.split(",") for line in content.splitlines()[1:]]
        content = "".join(f"{label}\t{text}\n" for text, label in lines)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.{suffix}").write_bytes(content.encode())
    text = load_text(DataConfig(dataset=str(tmp_path)), tokenizer)
    assert text.labels == labels and len(text.train) == 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train.csv", "text,label\na,x\nb\n", "malformed: .*(Row|row).*3"),
        ("train.csv", "text,label\na,x,more\n", "malformed"),
        ("train.csv", 'text,label\na,x\n"b,y\nc,x\n"d" e,y\n', "line 3 .* value in line 5"),
        ("train.tsv", 'text\tlabel\na\tx\n"b\ty\nc "d"\tx\n', "line 3 .* value in line 4"),
        ("train.csv", "text;label\na;x\n", "';' seems to separate its columns"),
        ("train.tsv", "text,label\na,x\n", "',' seems to separate its columns"),
        ("train.csv", "text,text\na,b\n", "has the column 'text' twice"),
        ("train.csv", "", "is empty"),
        ("train.txt", "a\tb\nc\n", "Line 2 of .* has 1 parts"),
        ("train.jsonl", '{"text": "a", "label": "x"}\n[1]\n', "Row 1 of .* Expected an object"),
        ("train.jsonl", '{"text": "a", "label": "x"}\n{"text"\n', "Line 2 of .* is not JSON"),
        ("train.csv", b"text,label\n\xff,x\n", "is not UTF-8: line 2 has the byte 0xff"),
    ],
)
def test_malformed_files_are_refused_with_the_row(
    tmp_path: Path, tokenizer: Any, name: str, content: str | bytes, reason: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    suffix = name.rpartition(".")[2]
    (tmp_path / f"validation.{suffix}").write_bytes(data)
    with pytest.raises(NirvanaError, match=reason):
        load_text(DataConfig(dataset=str(tmp_path)), tokenizer)


def test_columns_are_found_by_usual_names_and_several_are_refused(
    tmp_path: Path, tokenizer: Any
) -> None:
    for head in ("Sentence,Label", "content,category"):
        for split in ("train", "validation"):
            (tmp_path / f"{split}.csv").write_text(f"{head}\na,x\nb,y\n")
        assert load_text(DataConfig(dataset=str(tmp_path)), tokenizer).labels == ("x", "y")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text,sentence,label\na,b,x\nb,c,y\n")
    with pytest.raises(NirvanaError, match=r"columns text, sentence, .* Set data\.text_column"):
        load_text(DataConfig(dataset=str(tmp_path)), tokenizer)
    named = DataConfig(dataset=str(tmp_path), text_column="sentence")
    assert load_text(named, tokenizer).labels == ("x", "y")


@pytest.mark.parametrize(("used", "wrong"), [(("1", "2", "3"), 3), (("-5", "0", "1"), -5)])
def test_numbers_outside_those_of_the_model_are_named(used: tuple[str, ...], wrong: int) -> None:
    """Classes that count from 1: it is the 3 that the model lacks, and 1 is one of its numbers."""
    reason = f"has the class {wrong}, and the model numbers its 3 classes from 0 to 2"
    with pytest.raises(NirvanaError, match=reason):
        number_classes(used, used, model=("mail", "games", "math"), column="label")
