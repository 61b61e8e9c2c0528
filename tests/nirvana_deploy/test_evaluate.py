"""`nirvana evaluate` scores checkpoints and ONNX alike, by names of classes, and shows changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nirvana_deploy import ExportConfig, evaluate, export
from nirvana_deploy.cli import main
from pruning.errors import NirvanaError
from pruning.tasks.data_config import DataConfig
from tests.pruning.tiny_text import CLASSES
from tests.pruning.training.tiny_tasks import draw_row, write_headed, write_rows

LABELS = sorted(CLASSES)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with named classes, its export, and a csv of rows."""
    home = tmp_path_factory.mktemp("evaluate")
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}
    write_headed(home / "model", "classification", num_labels=len(LABELS), **names)
    export(home / "model", ExportConfig(), out=home / "onnx")
    write_csv(home / "rows.csv", 60)
    return home


def write_csv(path: Path, num_rows: int, **renamed: str) -> Path:
    import random

    draw = random.Random(5)
    rows = [draw_row("classification", draw) for _ in range(num_rows)]
    lines = [f"{row['text']},{renamed.get(row['label'], row['label'])}" for row in rows]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def score_by_hand(folder: Path, rows: Path) -> tuple[float, float]:
    """Accuracy and mean loss, row by row and without any of our code."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hits, losses = [], []
    for line in rows.read_text().splitlines()[1:]:
        text, label = line.split(",")
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        number = model.config.label2id[label]
        hits.append(int(logits.argmax()) == number)
        losses.append(-float(logits.log_softmax(-1)[number]))
    return float(np.mean(hits)), float(np.mean(losses))


def test_scores_are_those_of_a_loop_over_the_rows(home: Path) -> None:
    accuracy, loss = score_by_hand(home / "model", home / "rows.csv")
    for artifact in ("model", "onnx", "onnx/model.onnx"):
        result = evaluate(home / artifact, home / "rows.csv", batch_size=7)
        assert result.num_rows == 60
        assert result.scores["accuracy"].value == pytest.approx(accuracy)
        assert result.scores["loss"].value == pytest.approx(loss, rel=1e-4)
        assert result.table is not None
        assert sum(map(sum, result.table.confusion)) == 60
        assert {each.name for each in result.table.classes} == set(LABELS)
        assert result.changes is None


@pytest.mark.parametrize(
    "kind", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "multi_label_classification"}]
)
def test_a_head_that_chooses_no_class_is_refused(tmp_path: Path, kind: dict[str, Any]) -> None:
    names = [f"L{number}" for number in range(kind["num_labels"])]
    named = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    write_headed(tmp_path / "model", "classification", **named, **kind)
    export(tmp_path / "model", ExportConfig(), out=tmp_path / "onnx")
    (tmp_path / "rows.csv").write_text("text,label\none,L0\n")
    for artifact in ("model", "onnx"):
        with pytest.raises(NirvanaError, match="a classifier that chooses one of two or more"):
            evaluate(tmp_path / artifact, tmp_path / "rows.csv")


def test_nothing_changes_between_a_checkpoint_and_its_export(home: Path) -> None:
    changes = evaluate(home / "onnx", home / "rows.csv", baseline=home / "model").changes
    assert changes is not None
    assert (changes.num_rows, changes.rows) == (0, ())
    assert 0 < changes.at_most < 0.06


def test_changed_rows_are_named_by_class(home: Path, tmp_path: Path) -> None:
    """Two classes trade their rows in the head: the rows of both change, and no others."""
    model = AutoModelForSequenceClassification.from_pretrained(home / "model")
    with torch.no_grad():
        for tensor in (model.classifier.weight, model.classifier.bias):
            tensor[[0, 1]] = tensor[[1, 0]].clone()
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(home / "model").save_pretrained(tmp_path / "other")
    first = evaluate(home / "model", home / "rows.csv")
    assert first.table is not None
    moved = sum(each.num_predicted for each in first.table.classes[:2])
    changes = evaluate(tmp_path / "other", home / "rows.csv", baseline=home / "model").changes
    assert changes is not None
    assert moved
    assert changes.num_rows == len(changes.rows) == moved
    for row in changes.rows:
        assert {row.baseline, row.answer} == set(LABELS[:2])
        assert row.label in row.text or row.label in LABELS


def test_a_model_that_numbers_its_classes_otherwise_answers_the_same(
    home: Path, tmp_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(home / "model")
    order = list(reversed(range(len(LABELS))))
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order])
        model.classifier.bias.copy_(model.classifier.bias[order])
    model.config.id2label = dict(enumerate(reversed(LABELS)))
    model.config.label2id = {name: i for i, name in enumerate(reversed(LABELS))}
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(home / "model").save_pretrained(tmp_path / "other")
    result = evaluate(tmp_path / "other", home / "rows.csv", baseline=home / "model")
    assert result.changes is not None
    assert result.changes.num_rows == 0
    assert result.scores["accuracy"] == result.changes.scores["accuracy"]


@pytest.mark.parametrize(
    "task", ["token-classification", "question-answering", "causal-lm", "masked-lm", "seq2seq"]
)
def test_each_task_is_scored_alike_in_torch_and_onnx(task: str, tmp_path: Path) -> None:
    sizes = {}
    if task == "token-classification":
        names = dict(enumerate(LABELS))
        sizes = {"num_labels": len(LABELS), "id2label": names}
        sizes["label2id"] = {name: number for number, name in names.items()}
    write_headed(tmp_path / "model", task, **sizes)
    data = write_rows(tmp_path / "rows", task)
    result = evaluate(tmp_path / "model", data)
    assert result.task == task
    assert result.num_rows == (8 if task != "causal-lm" else result.num_rows)
    assert result.scores[result.metric].value == result.scores[result.metric].value  # a number
    export(tmp_path / "model", ExportConfig(), out=tmp_path / "onnx")
    other = evaluate(tmp_path / "onnx", data, baseline=tmp_path / "model")
    assert other.changes is not None
    assert other.changes.num_rows == 0
    # A decoder's graphs take no labels: they are scored by what they write.
    assert set(other.scores) == ({"rouge_l"} if task == "seq2seq" else set(result.scores))
    for name, score in ((name, result.scores[name]) for name in other.scores):
        assert other.scores[name].value == pytest.approx(score.value, rel=1e-3), name


def test_a_graph_of_nan_is_refused(home: Path, tmp_path: Path) -> None:
    graph = onnx.load(home / "onnx/model.onnx")
    for tensor in graph.graph.initializer:
        if len(tensor.dims) == 2 and len(LABELS) in tensor.dims:
            values = np.full(tensor.dims, np.nan, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            break
    else:
        pytest.fail("the graph has no weights of the classes")
    onnx.save(graph, tmp_path / "bad.onnx")
    with pytest.raises(NirvanaError, match="computes NaN or infinity"):
        evaluate(tmp_path / "bad.onnx", home / "rows.csv", texts=home / "model")


def test_a_bare_file_needs_its_texts(home: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.onnx").write_bytes((home / "onnx/model.onnx").read_bytes())
    with pytest.raises(NirvanaError, match=r"has no config\.json.*--texts DIR"):
        evaluate(tmp_path / "alone.onnx", home / "rows.csv")
    result = evaluate(tmp_path / "alone.onnx", home / "rows.csv", texts=home / "model")
    assert (
        result.scores["accuracy"] == evaluate(home / "model", home / "rows.csv").scores["accuracy"]
    )


def test_wrong_rows_are_refused_in_words(home: Path, tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match="There is no data file"):
        evaluate(home / "model", tmp_path / "none.csv")
    write_csv(tmp_path / "other.csv", 9, **dict.fromkeys(LABELS, "unheard"))
    with pytest.raises(NirvanaError, match=r"'unheard'.*which the model does not have"):
        evaluate(home / "model", tmp_path / "other.csv")
    (tmp_path / "tags.jsonl").write_text('{"tokens": ["a"], "tags": ["b"]}\n')
    rows = DataConfig(
        dataset=str(tmp_path / "tags.jsonl"), task="token-classification", tags_column="tags"
    )
    with pytest.raises(NirvanaError, match="rows of token-classification, and the model's head"):
        evaluate(home / "model", rows)
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(NirvanaError, match="no rows"):
        evaluate(home / "model", tmp_path / "empty.csv")
    with pytest.raises(NirvanaError, match="max_length is 9999"):
        evaluate(home / "model", home / "rows.csv", max_length=9999)


def test_rows_that_are_cut_are_counted(home: Path) -> None:
    result = evaluate(home / "model", home / "rows.csv", max_length=5)
    assert result.max_length == 5
    assert result.num_cut == 60  # each has four words or more, and two special tokens
    assert evaluate(home / "model", home / "rows.csv").num_cut == 0


def test_a_file_with_one_class_is_scored(home: Path, tmp_path: Path) -> None:
    lines = (home / "rows.csv").read_text().splitlines()
    one = [line for line in lines if line.endswith(f",{LABELS[0]}")]
    (tmp_path / "one.csv").write_text("\n".join(["text,label", *one]) + "\n")
    result = evaluate(home / "model", tmp_path / "one.csv")
    assert result.table is not None
    assert result.table.classes[0].num_labels == result.num_rows == len(one)


def test_the_verb_prints_and_writes_the_same(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(home / "onnx"), "--data", str(home / "rows.csv")]
    assert main([*command, "--baseline", str(home / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_rows"] == 60
    assert told["changes"]["num_rows"] == 0
    assert main([*command, "--out", str(tmp_path / "new/figures.json")]) == 0
    written = json.loads((tmp_path / "new/figures.json").read_text())
    assert written["scores"] == told["scores"]
    printed = capsys.readouterr().out
    assert f"{told['scores']['accuracy']['value']:.4f}" in printed
    assert LABELS[0] in printed
    assert main([*command, "--out", str(tmp_path / "new/figures.json")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["evaluate", str(home / "onnx")]) == 1
    assert "Expected rows to score" in capsys.readouterr().err
