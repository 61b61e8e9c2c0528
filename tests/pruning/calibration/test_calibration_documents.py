from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from pruning.calibration import calibration_documents
from pruning.calibration.calibration_config import CalibrationConfig, calibrate_on, name_source
from pruning.calibration.calibration_documents import Document, load_documents
from pruning.errors import NirvanaError, NirvanaWarning
from pruning.tasks.data_config import DataConfig
from tests.pruning.oneshot.tiny_calibration import write_lines

ROWS = {"text": ["play dice", " ", "send post"], "kind": ["games", "mail", "mail"]}


def test_the_embedded_set_has_classes() -> None:
    documents = load_documents(CalibrationConfig())
    folder = Path(__file__).parents[3] / "pruning" / "data" / "debian_sections"
    rows = pd.read_parquet(folder / "train.parquet")
    assert [d.text for d in documents] == rows["description"].tolist()
    assert [d.label for d in documents] == rows["section"].tolist()
    assert {d.target for d in documents} == {None}


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_columns_of_local_files_and_no_blank_texts(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame(ROWS)
    for split in ("train", "validation"):
        path = tmp_path / f"{split}.{suffix}"
        if suffix == "csv":
            frame.to_csv(path, index=False)
        elif suffix == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_json(path, orient="records", lines=True)
    source = str(tmp_path)
    texts = load_documents(CalibrationConfig(source=source, text_column="text"))
    assert texts == [("play dice", None, None), ("send post", None, None)]
    named = CalibrationConfig(source=source, text_column="text", label_column="kind")
    assert [d.label for d in load_documents(named)] == ["games", "mail"]
    paired = CalibrationConfig(source=source, text_column="text", target_column="kind")
    assert [d.target for d in load_documents(paired)] == ["games", "mail"]


def test_a_txt_file_has_a_document_a_line(tmp_path: Path) -> None:
    lines = [f"play {n}\tdice" for n in range(20)]
    source = write_lines(tmp_path / "some.txt", *lines, "", "")
    documents = load_documents(CalibrationConfig(source=source))
    assert documents.text_column == "text"
    texts = {d.text for d in documents}
    assert texts < set(lines)  # without the tenth that fine-tuning validates on
    assert len(texts) >= 17
    paired = load_documents(CalibrationConfig(source=source, target_column="target"))
    assert {d.target for d in paired} == {"dice"}


def test_integer_classes_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_dict({"text": ["play", "send"], "kind": [1, 0]})
    rows = rows.cast_column("kind", ClassLabel(names=["mail", "games"]))
    monkeypatch.setattr(calibration_documents, "load_splits", lambda _: DatasetDict({"test": rows}))
    config = CalibrationConfig(source="a", split="test", text_column="text", label_column="kind")
    assert load_documents(config) == [
        Document("play", None, "games"),
        Document("send", None, "mail"),
    ]
    with pytest.raises(NirvanaError, match=r"no split 'train'; it has \['test'\]"):
        load_documents(CalibrationConfig(source="a", text_column="text"))


def test_bad_sources(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(NirvanaError, match=r"empty\.txt is empty"):
        load_documents(CalibrationConfig(source=str(empty)))
    blank = write_lines(tmp_path / "blank.txt", *[""] * 10)
    with pytest.raises(NirvanaError, match="9 rows and text in none"):
        load_documents(CalibrationConfig(source=blank))
    with pytest.raises(NirvanaError, match="no data file at"):
        load_documents(CalibrationConfig(source=str(tmp_path / "absent.csv")))
    table = tmp_path / "table.parquet"
    pd.DataFrame({"text": ["a"] * 9, "number": range(9)}).to_parquet(table)
    source = str(table)
    with pytest.raises(NirvanaError, match=r"no column 'words'.*calibration\.text_column"):
        load_documents(CalibrationConfig(source=source, text_column="words"))
    unusual = tmp_path / "unusual.csv"
    pd.DataFrame({"a": ["b"] * 9, "c": ["d"] * 9}).to_csv(unusual, index=False)
    with pytest.raises(NirvanaError, match=r"none of them with a usual name.*calibration\.text"):
        load_documents(CalibrationConfig(source=str(unusual)))
    with pytest.raises(NirvanaError, match=r"no column 'kind'.*calibration\.label_column"):
        load_documents(CalibrationConfig(source=source, text_column="text", label_column="kind"))
    with pytest.raises(NirvanaError, match=r"no column 'short'.*calibration\.target_column"):
        load_documents(CalibrationConfig(source=source, text_column="text", target_column="short"))
    with pytest.raises(NirvanaError, match="'number' must hold text"):
        load_documents(CalibrationConfig(source=source, text_column="number"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_sequences": 0}, "num_sequences must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"num_draws": 0}, "num_draws must be 1 or more"),
        ({"sequence_length": 7}, "sequence_length must be 8 or more, got 7"),
        ({"target_column": "a", "label_column": "b"}, "Set one of them"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        CalibrationConfig(**settings)


def test_the_demos_text_is_used_for_others_with_a_warning_alone() -> None:
    with pytest.warns(NirvanaWarning, match="Calibrating on debian-sections.*no source was given"):
        named = name_source(CalibrationConfig())
    assert named.source == "debian-sections"
    own = DataConfig(dataset="my.csv", train_split="training", text_column="words")
    found = calibrate_on(CalibrationConfig(num_draws=1), own)
    assert (found.source, found.split, found.text_column) == ("my.csv", "training", "words")
    given = CalibrationConfig(source="other.csv")
    assert calibrate_on(given, own) is given and name_source(given) is given


def test_words_of_tags_are_a_text(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"tokens": [["play", "dice"], ["send"]], "ner_tags": [[0, 1], [0]]})
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    data = DataConfig(dataset=str(tmp_path), task="token-classification")
    documents = load_documents(calibrate_on(CalibrationConfig(), data))
    assert [d.text for d in documents] == ["play dice", "send"]


def test_a_row_without_its_class_is_named(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["play", "send"], "kind": ["games", None]})
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    config = CalibrationConfig(source=str(tmp_path), label_column="kind")
    with pytest.raises(NirvanaError, match="'kind', row 1 of 'train', has None"):
        load_documents(config)
