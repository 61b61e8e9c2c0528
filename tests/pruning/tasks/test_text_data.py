import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoTokenizer

from pruning.errors import NirvanaError
from pruning.tasks.data_config import DataConfig
from pruning.tasks.metrics import score_classes
from pruning.tasks.text_data import collate, load_text

ROWS = {"description": ["play dice", "send post", "prove"], "section": ["games", "mail", "math"]}


@pytest.fixture
def tokenizer(tiny_model_dir: Path):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def test_the_embedded_set_is_balanced_and_small(tokenizer) -> None:
    text = load_text(DataConfig(max_length=8), tokenizer)
    assert len(text.labels) == 24
    for rows, num_each in ((text.train, 100), (text.validation, 13)):
        counts = pd.Series(rows["labels"]).value_counts()
        assert counts.tolist() == [num_each] * 24
    folder = Path(__file__).parents[3] / "pruning" / "data" / "debian_sections"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1_000_000
    assert "free licence" in (folder / "README.md").read_text()


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet", "txt"])
def test_local_files_give_the_same_rows(tmp_path: Path, tokenizer, suffix: str) -> None:
    frame = pd.DataFrame(ROWS)
    for split in ("train", "validation"):
        path = tmp_path / f"{split}.{suffix}"
        if suffix == "csv":
            frame.to_csv(path, index=False)
        elif suffix == "txt":
            lines = zip(ROWS["section"], ROWS["description"], strict=True)
            path.write_text("".join(f"{label}\t{text}\n" for label, text in lines))
        elif suffix == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_json(path, orient="records", lines=True)
    text = load_text(DataConfig(dataset=str(tmp_path)), tokenizer)
    assert text.labels == ("games", "mail", "math")
    assert text.train["labels"] == text.validation["labels"] == [0, 1, 2]
    assert text.train["input_ids"][0] == tokenizer("play dice")["input_ids"]


def test_a_single_file_is_split(tmp_path: Path, tokenizer) -> None:
    pd.concat([pd.DataFrame(ROWS)] * 10).to_csv(tmp_path / "all.csv", index=False)
    text = load_text(DataConfig(dataset=str(tmp_path / "all.csv")), tokenizer)
    assert (len(text.train), len(text.validation)) == (27, 3)


def test_a_single_file_of_one_row_is_refused(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "all.csv"
    pd.DataFrame({"description": ["a"], "section": ["b"]}).to_csv(path, index=False)
    with pytest.raises(NirvanaError, match=r"all\.csv has 1 rows: too few to leave some out"):
        load_text(DataConfig(dataset=str(path)), tokenizer)


def test_rows_are_cut_and_padded(tmp_path: Path, tokenizer) -> None:
    pd.concat([pd.DataFrame(ROWS)] * 10).to_csv(tmp_path / "all.csv", index=False)
    config = DataConfig(dataset=str(tmp_path / "all.csv"), max_train_rows=5, max_length=3)
    text = load_text(config, tokenizer)
    assert len(text.train) == 5
    batch = collate(tokenizer, list(text.train))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (5, 3)


def write(folder: Path, **columns: list) -> DataConfig:
    pd.DataFrame(columns).to_csv(folder / "train.csv", index=False)
    pd.DataFrame(ROWS).to_csv(folder / "validation.csv", index=False)
    return DataConfig(dataset=str(folder))


def test_missing_columns_are_named(tmp_path: Path, tokenizer) -> None:
    config = write(tmp_path, text=["a"], label=["b"])
    with pytest.raises(
        NirvanaError, match=r"no column 'text'; it has \['description', 'section'\]"
    ):
        load_text(config, tokenizer)


def test_an_unknown_class_in_validation_is_named(tmp_path: Path, tokenizer) -> None:
    config = write(tmp_path, description=["play", "send"], section=["games", "mail"])
    with pytest.raises(NirvanaError, match="Validation has the class 'math'"):
        load_text(config, tokenizer)


def test_rows_without_text_or_class_are_refused(tmp_path: Path, tokenizer) -> None:
    rows = {"number": [1, 2, 3], **ROWS}
    for split in ("train", "validation"):
        pd.DataFrame(rows).to_parquet(tmp_path / f"{split}.parquet")
    config = DataConfig(dataset=str(tmp_path))
    with pytest.raises(NirvanaError, match="must hold text in every row"):
        load_text(replace(config, text_column="number"), tokenizer)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.parquet").unlink()
    config = write(tmp_path, description=["play", "send"], section=["games", None])
    with pytest.raises(NirvanaError, match=r"'section', row 1 of 'train', has ''"):
        load_text(config, tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "gone.csv"}, r"no data file at gone\.csv"),
        ({"dataset": "no-such-set"}, "Cannot load the data set 'no-such-set'"),
        ({"validation_split": "test"}, r"Expected test\.csv"),
        ({"dataset": __file__}, "Expected a file ending in"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path, tokenizer, monkeypatch, changes, message) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path, **ROWS)
    config = DataConfig(**{"dataset": str(tmp_path), **changes})
    with pytest.raises(NirvanaError, match=message):
        load_text(config, tokenizer)


def test_a_broken_file_is_named(tmp_path: Path, tokenizer) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.json").write_text(json.dumps(ROWS)[:-9])
    with pytest.raises(NirvanaError, match=r"Line 1 of .*train\.json is not JSON: .*truncated"):
        load_text(DataConfig(dataset=str(tmp_path)), tokenizer)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(NirvanaError, match="max_train_rows must be 1 or more, got 0"):
        DataConfig(max_train_rows=0)


def test_accuracy_and_macro_f1() -> None:
    from types import SimpleNamespace

    import numpy as np
    from sklearn.metrics import f1_score

    logits = np.eye(4)[[0, 1, 1, 2, 2, 0]]
    labels = np.array([0, 1, 2, 2, 2, 3])
    scores = score_classes(SimpleNamespace(predictions=logits, label_ids=labels))
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(-1), average="macro"))
