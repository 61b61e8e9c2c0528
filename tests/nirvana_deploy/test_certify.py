"""`nirvana certify`: what is claimed holds as often as it says, and of no other files."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import nirvana_deploy.certification
from nirvana_deploy import ExportConfig, PackageConfig, certify, export, load, package
from nirvana_deploy.certificate import (
    CERTIFICATE_FILE,
    Certificate,
    check_packaged,
    count_needed_rows,
    flips_p_value,
    mean_p_value,
    save_certificate,
)
from nirvana_deploy.cli import main
from nirvana_deploy.serving.server.served_models import list_served_graphs
from pruning.errors import NirvanaError
from tests.pruning.tiny_text import CLASSES
from tests.pruning.training.tiny_tasks import draw_row, write_headed, write_rows

LABELS = sorted(CLASSES)


def write_csv(path: Path, num_rows: int, seed: int = 5) -> Path:
    draw = random.Random(seed)
    rows = [draw_row("classification", draw) for _ in range(num_rows)]
    path.write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense classifier, a slightly changed one, the same in another order of classes, rows."""
    home = tmp_path_factory.mktemp("certify")
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}
    write_headed(home / "dense", "classification", num_labels=len(LABELS), **names)
    for name, change in (("turned", 0.0), ("changed", 0.15)):
        model = AutoModelForSequenceClassification.from_pretrained(home / "dense")
        order = list(reversed(range(len(LABELS))))
        torch.manual_seed(1)
        with torch.no_grad():
            model.classifier.weight.copy_(model.classifier.weight[order])
            model.classifier.bias.copy_(model.classifier.bias[order])
            model.classifier.weight += change * torch.randn_like(model.classifier.weight)
        model.config.id2label = dict(enumerate(reversed(LABELS)))
        model.config.label2id = {label: i for i, label in enumerate(reversed(LABELS))}
        model.save_pretrained(home / name)
        AutoTokenizer.from_pretrained(home / "dense").save_pretrained(home / name)
    write_csv(home / "rows.csv", 300)
    return home


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The turned model in a folder of its own."""
    return shutil.copytree(home / "turned", tmp_path / "turned")


def sum_exactly(hits: int, num_rows: int, p: Fraction) -> float:
    terms = (math.comb(num_rows, k) * p**k * (1 - p) ** (num_rows - k) for k in range(hits + 1))
    return float(sum(terms))


@pytest.mark.parametrize(("hits", "num_rows"), [(0, 58), (3, 200), (9, 200), (40, 300)])
def test_the_p_value_of_flips_is_the_exact_one(hits: int, num_rows: int) -> None:
    expected = sum_exactly(hits, num_rows, Fraction(1, 20))
    assert flips_p_value(hits, num_rows, 0.05) == pytest.approx(expected, rel=1e-9)
    losses = [1.0] * hits + [0.0] * (num_rows - hits)
    assert mean_p_value(losses, 0.05) == pytest.approx(expected, rel=1e-9)


def test_a_claim_is_wrong_as_rarely_as_it_says() -> None:
    """Redraws from pools whose true risk is just above the limit: each pass is an error."""
    draw = np.random.default_rng(0)
    limit, num_rows, num_draws = 0.05, 400, 4000
    flips = draw.binomial(num_rows, limit + 1e-9, num_draws)
    wrong = np.mean([flips_p_value(int(n), num_rows, limit) <= 0.1 for n in flips])
    assert 0.06 < wrong < 0.1 + 3 * math.sqrt(0.1 * 0.9 / num_draws)
    losses = draw.choice([0.0, 0.1, 0.4], (400, num_rows), p=[0.6, 0.3, 0.1])  # mean 0.07
    wrong = np.mean([mean_p_value(row.tolist(), 0.0699) <= 0.1 for row in losses])
    assert wrong <= 0.1
    # And it is of use: a mean that is far enough below is shown.
    assert mean_p_value(losses[0].tolist() * 2, 0.14) < 0.01


def test_the_rows_that_a_claim_needs() -> None:
    needed = count_needed_rows(0.02, 0.95)
    assert flips_p_value(0, needed, 0.02) <= 0.05 < flips_p_value(0, needed - 1, 0.02)


def test_too_few_rows_are_refused_before_any_work(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nirvana_deploy.certification, "run_model", None)
    rows = write_csv(tmp_path / "few.csv", 140)
    with pytest.raises(NirvanaError, match=r"has 140 rows\. To show 2\.00% .* takes 149 or more"):
        certify([home / "turned"], home / "dense", rows, max_flips=0.02)


def test_rows_that_were_trained_on_are_refused(home: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.jsonl"
    text = (home / "rows.csv").read_text().splitlines()[3].split(",")[0]
    seen.write_text(json.dumps({"sentence": text, "class": "x"}) + "\n" + '{"sentence": "other"}\n')
    with pytest.raises(NirvanaError, match=r"1 texts of .* the first is row 2\. A certificate is"):
        certify(
            [home / "turned"], home / "dense", home / "rows.csv", max_flips=0.1, fitted_on=[seen]
        )


def test_the_sequence_ends_at_the_first_that_fails(home: Path) -> None:
    order = [home / "turned", home / "changed", home / "turned"]
    found = certify(order, home / "dense", home / "rows.csv", max_flips=0.02)
    assert [each.passed for each in found.sequence] == [True, False]
    assert found.chosen == 0
    assert found.sequence[0].risk == 0  # classes are compared by name
    assert found.sequence[1].risk > 0.02
    none = certify(order[1:], home / "dense", home / "rows.csv", max_flips=0.02)
    assert none.chosen is None and len(none.sequence) == 1


def test_a_loss_counts_what_was_right_before(home: Path) -> None:
    """By hand: the rows that the dense model answers rightly and the other one does not."""
    answers = {}
    lines = [line.split(",") for line in (home / "rows.csv").read_text().splitlines()[1:]]
    for name in ("dense", "changed"):
        model = AutoModelForSequenceClassification.from_pretrained(home / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(home / name)
        with torch.no_grad():
            answers[name] = [
                model.config.id2label[
                    int(model(**tokenizer(t, return_tensors="pt")).logits.argmax())
                ]
                for t, _ in lines
            ]
    harmed = sum(
        dense == label != changed
        for dense, changed, (_, label) in zip(*answers.values(), lines, strict=True)
    )
    assert harmed
    found = certify([home / "changed"], home / "dense", home / "rows.csv", max_loss=0.3)
    assert found.sequence[0].risk == pytest.approx(harmed / len(lines))
    assert found.metric == "accuracy"


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_other_tasks_have_certificates(task: str, tmp_path: Path) -> None:
    names = {"num_labels": len(LABELS), "id2label": dict(enumerate(LABELS))}
    names["label2id"] = {name: number for number, name in enumerate(LABELS)}
    write_headed(tmp_path / "model", task, **(names if task.startswith("token") else {}))
    data = write_rows(tmp_path / "rows", task, num_validation=60)
    for limit in ({"max_flips": 0.1}, {"max_loss": 0.1}):
        found = certify([tmp_path / "model"], tmp_path / "model", data, **limit)
        assert (found.chosen, found.sequence[0].risk) == (0, 0)


def test_a_task_without_answers_is_refused(tmp_path: Path) -> None:
    write_headed(tmp_path / "model", "masked-lm")
    data = write_rows(tmp_path / "rows", "masked-lm", num_validation=60)
    with pytest.raises(NirvanaError, match="masked-lm has none that are right or wrong"):
        certify([tmp_path / "model"], tmp_path / "model", data, max_flips=0.1)


def test_a_changed_model_is_refused_with_its_certificate(
    home: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, dense = str(home / "rows.csv"), str(home / "dense")
    command = ["certify", str(copy), "--baseline", dense, "--data", rows, "--max-flips", "2%"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Certified" in said and "give --fitted-on" in said
    assert main(["evaluate", str(copy), "--data", rows]) == 0
    again = ["verify", dense, str(copy), "--certificate", str(copy / CERTIFICATE_FILE), "--data"]
    assert main([*again, rows]) == 0
    other = write_csv(copy.parent / "other.csv", 200, seed=8)
    assert main([*again, str(other)]) == 0
    assert main(command) == 1  # it has one already
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    capsys.readouterr()
    for words in (["evaluate", str(copy), "--data", rows], [*again, rows]):
        assert main(words) == 1
        assert "config.json of" in (said := capsys.readouterr().err)
        assert "was changed since the certificate was made" in " ".join(said.split())


def test_what_is_not_shown_has_exit_status_1(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.json"
    flags = [
        "--baseline",
        str(home / "dense"),
        "--data",
        str(home / "rows.csv"),
        "--out",
        str(path),
    ]
    assert main(["certify", str(home / "changed"), *flags, "--max-loss", "1pt"]) == 1
    assert "NOT CERTIFIED" in capsys.readouterr().out
    assert not path.exists()


def test_figures_that_are_not_of_these_rows_are_refused(home: Path, copy: Path) -> None:
    found = certify([copy], home / "dense", home / "rows.csv", max_flips=0.05)
    entry = replace(found.sequence[0], risk=0.04)
    save_certificate(replace(found, sequence=(entry,)), copy.parent / "forged.json")
    with pytest.raises(NirvanaError, match=r"has a risk of 0\.0000%, and the certificate says 4"):
        nirvana_deploy.verify_certificate(
            copy.parent / "forged.json", home / "dense", copy, home / "rows.csv"
        )


def test_a_certificate_goes_with_the_export_into_its_package(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    export(home / "turned", ExportConfig(), out=folder)
    found = certify([folder], home / "dense", home / "rows.csv", max_flips=0.05)
    save_certificate(found, folder / CERTIFICATE_FILE)
    load(folder)
    out = tmp_path / "package"
    package(folder / "model.onnx", PackageConfig(to="triton"), out=out)
    assert list_served_graphs(out)
    assert Certificate.load(out / CERTIFICATE_FILE) == found
    digests = {**found.sequence[0].sha256, "model.onnx": "0" * 64}
    other = replace(found, sequence=(replace(found.sequence[0], sha256=digests),))
    save_certificate(other, out / CERTIFICATE_FILE)
    with pytest.raises(NirvanaError, match=r"is a certificate for another model\.onnx"):
        check_packaged(out)
    save_certificate(other, folder / CERTIFICATE_FILE)
    for use in (
        lambda: load(folder),
        lambda: package(folder / "model.onnx", PackageConfig(to="triton"), out=tmp_path / "p"),
    ):
        with pytest.raises(NirvanaError, match=r"model\.onnx of .* was changed since"):
            use()


@pytest.mark.parametrize("text", ["2", "0", "-1%", "100%", "a", "nan"])
def test_a_limit_that_is_no_fraction_is_refused(
    text: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--baseline", str(home / "dense"), "--data", str(home / "rows.csv")]
    assert main(["certify", str(home / "turned"), *flags, f"--max-flips={text}"]) == 2
    assert "expected 2%, 2pt or 0.02" in " ".join(capsys.readouterr().err.split())


def test_a_limit_is_asked_for(home: Path) -> None:
    given: Any = {"max_flips": 0.1, "max_loss": 0.1}
    for limits in ({}, given):
        with pytest.raises(NirvanaError, match="Expected one limit: max_flips or max_loss"):
            certify([home / "turned"], home / "dense", home / "rows.csv", **limits)
