"""`nirvana prune` and the report for tasks that are no classification."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import nirvana_deploy as api
from nirvana_deploy.cli import main
from nirvana_deploy.report import write_report
from pruning.checkpoints.checkpoint import load_pruned
from pruning.gates.prune_config import PruneConfig
from pruning.tasks.tasks import find_task
from tests.pruning.training.tiny_tasks import write_headed, write_rows


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")


def share_of_a(predictions: Any, labels: Any) -> dict[str, float]:
    """A metric of one's own."""
    return {"my_score": float((predictions == labels).mean()) + 7}


@pytest.mark.parametrize("given", [["--data.task", "causal-lm"], []])
def test_the_command_prunes_a_language_model(given: list[str], tmp_path: Path, capsys) -> None:
    source = write_headed(tmp_path / "source", "causal-lm")
    data = write_rows(tmp_path / "data", "causal-lm")
    flags = {
        "data.dataset": data.dataset,
        "data.text_column": "text",
        "data.max_length": "16",
        "data.metric": f"{__name__}:share_of_a",
        "baseline.num_epochs": "1",
        "baseline.bf16": "false",
        "budget": "0.6",
        "num_epochs": "2",
        "batch_size": "4",
        "warm_start_rows": "4",
        "schedule.num_stages": "1",
        "sequence_length": "16",
        "bf16": "false",
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    out = tmp_path / "out"
    assert main(["prune", str(source), "--out", str(out), *arguments, *given]) == 0
    printed = capsys.readouterr().out
    assert "perplexity" in printed and "loss" in printed and "->" in printed
    assert find_task(load_pruned(out / "prune" / "checkpoint")).name == "causal-lm"
    result = json.loads((out / "prune" / "manifest.json").read_text())["result"]
    assert set(result["scores"]) == {"loss", "perplexity", "bits_per_byte", "my_score"}
    assert all(7 <= result[name]["my_score"] <= 8 for name in ("dense", "pruned"))


def test_a_fine_tuned_model_is_pruned_as_it_is(tmp_path: Path) -> None:
    names = dict(enumerate(("math", "games", "mail")))  # the data sort theirs otherwise
    source = write_headed(tmp_path / "source", "token-classification", num_labels=3, id2label=names)
    config = PruneConfig(num_epochs=4, batch_size=8, warm_start_rows=0, sequence_length=16)
    data = write_rows(tmp_path / "data", "token-classification")
    result = api.prune(source, config, out=tmp_path / "out", data=data, fine_tuned=True)
    assert dict(result.headline())["macro f1"].endswith("points)")


def test_a_task_that_the_model_cannot_do_is_said_in_a_line(tmp_path: Path, capsys) -> None:
    source = write_headed(tmp_path / "source", "causal-lm")
    data = write_rows(tmp_path / "data", "masked-lm")
    arguments = ["prune", str(source), "--out", str(tmp_path / "out")]
    arguments += ["--data.dataset", data.dataset, "--data.text_column", "text"]
    assert main([*arguments, "--data.task", "masked-lm"]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "no head for masked-lm on llama" in printed
    assert main([*arguments, "--data.task", "mask"]) == 2
    printed = capsys.readouterr().err
    assert "expected one of 'classification'" in printed and "or null" in printed


def draw(folder: Path, prune: dict[str, Any]) -> str:
    for stage, result in (("baseline", {"num_validation_rows": 8}), ("prune", prune)):
        (folder / stage).mkdir(parents=True)
        manifest = {"stage": stage, "key": "0", "started": "2026-01-05 10:11", "seconds": 1.0}
        (folder / stage / "manifest.json").write_text(json.dumps({**manifest, "result": result}))
    (folder / "recipe.yaml").write_text("model: demo\n")
    return write_report(folder).read_text(encoding="utf-8").replace("\u00a0", " ")


FIGURES = {"num_parameters": 9, "block_parameters": 5, "block_macs": 70, "size_bytes": 36}
SCORES: dict[str, tuple[dict[str, float], dict[str, float], list[str]]] = {
    "perplexity": (
        {"loss": 3.0, "perplexity": 20.0, "bits_per_byte": 1.1, "my_score": 4.0},
        {"loss": 3.3, "perplexity": 25.0, "bits_per_byte": 1.2, "my_score": 5.0},
        [
            "perplexity 20.000 → 25.000 (+25.0 %)",
            "Bits per byte 1.100 1.200 +9.1 %",
            "My score 4.000 5.000 +25.0 %",
            "Validation loss at each pruning step",
        ],
    ),
    "rouge_l": (
        {"loss": 3.0, "perplexity": 20.0, "rouge_l": 0.5},
        {"loss": 3.3, "perplexity": 25.0, "rouge_l": 0.4},
        ["ROUGE-L 50.0 % → 40.0 % (\u221210.0 points)", "Perplexity 20.000 25.000"],
    ),
    "f1": (
        {"loss": 1.0, "f1": 0.75, "exact_match": 0.5},
        {"loss": 2.0, "f1": 0.5, "exact_match": 0.25},
        ["answer F1 75.0 % → 50.0 %", "Exact match 50.0 % 25.0 % \u221225.0 points"],
    ),
}


@pytest.mark.parametrize("metric", SCORES)
def test_the_report_shows_the_scores_of_any_task(metric: str, tmp_path: Path) -> None:
    dense, pruned, expected = SCORES[metric]
    prune = {
        "metric": metric,
        "scores": list(dense),
        "budget": {"cost": "macs", "asked_kept_fraction": 0.5, "kept_fraction": 0.5},
        "dense": {**FIGURES, **dense},
        "pruned": {**FIGURES, **pruned},
        "validations": [{"step": 2, "loss": 3.1}, {"step": 4, "loss": 3.2}],
    }
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", draw(tmp_path, prune)))
    for words in expected:
        assert words in page
    assert "Accuracy" not in page
