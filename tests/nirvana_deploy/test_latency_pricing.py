"""Budgets in milliseconds, with a table that is made up: no graph is traced here."""

import json
from pathlib import Path
from typing import Any

import pytest

from nirvana_deploy import api
from nirvana_deploy.cli import main
from nirvana_deploy.latency_pricing import price_latency
from profiles.latency.latency_budget import LatencyBudget
from profiles.latency.latency_table import LatencyCurve, LatencyTable
from profiles.latency.table_config import TableConfig
from pruning.oneshot.scoring_run import ScoringRun, load_run
from pruning.plans.plan import PruningPlan
from tests.pruning.oneshot.tiny_runs import oneshot, scoring, write_model, write_text

SMALL = ["--constraints.neuron_multiple", "8", "--repair", "no_repair"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScoringRun:
    folder = tmp_path_factory.mktemp("scored")
    model, text = write_model(folder / "model", "classification"), write_text(folder / "text")
    api.score(model, scoring(text), out=folder / "run")
    return load_run(folder / "run")


@pytest.fixture
def table(run: ScoringRun, monkeypatch: pytest.MonkeyPatch) -> LatencyTable:
    stack = run.dims.stacks[0]
    groups, neurons = stack.num_kv_heads, stack.intermediate_size
    made = LatencyTable(
        stack=stack,
        attention=LatencyCurve(kept=(0, groups), latency_ms=(0.0, 1.0)),
        mlp=LatencyCurve(kept=(0, neurons), latency_ms=(0.0, 2.0)),
        block_ms=0.1,
        dense_ms=4.0 + 3.1 * stack.num_layers,
        rest_ms=4.0,
        measured={},
    )

    def measure(model: Any, config: TableConfig, **_: Any) -> LatencyTable:
        assert not model.training and model.config._attn_implementation == "eager"
        assert type(model).__name__ == "BertForSequenceClassification"
        assert config.length == 24
        return made

    monkeypatch.setattr("profiles.latency.measure_table.measure_table", measure)
    return made


def test_a_latency_is_met_and_told(
    run: ScoringRun, table: LatencyTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = table.dense_ms * 0.8
    command = ["prune", "--scores", str(run.folder), "--latency", f"{asked * 1000:.3f}us"]
    command += ["--table.length", "24", "--out", str(tmp_path / "out"), *SMALL]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "latency, predicted from a measured table" in said and "kept of the blocks' nano" in said
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    plan = PruningPlan.load(tmp_path / "out" / "plan.json")
    predicted = figures["latency"]["predicted_ms"]
    assert predicted == pytest.approx(table.predict_ms(plan))
    # The largest step: one head of the attention, or 8 neurons.
    step = max(1 / table.attention.kept[-1], 2 * 8 / table.mlp.kept[-1])
    assert asked - step < predicted <= asked + 1e-3
    assert figures["latency"]["is_estimate"] is False
    assert figures["latency"]["clock"] in ("wall", "cpu")
    assert figures["budget"]["cost"] == "nanoseconds" == plan.made_by["cost"]
    assert plan.made_by["latency"]["asked_ms"] == pytest.approx(asked, rel=1e-5)
    assert (tmp_path / "out" / "checkpoint" / "config.json").is_file()


def test_a_speedup_from_python(run: ScoringRun, table: LatencyTable, tmp_path: Path) -> None:
    fraction, pricing = price_latency(
        run, LatencyBudget(speedup=1.5), oneshot(), table=TableConfig(length=24)
    )
    (found,) = api.prune_from_scores(
        run, [fraction], oneshot(), out=tmp_path / "out", pricing=pricing
    )
    latency = found.figures["latency"]
    assert latency["asked_ms"] == pytest.approx(table.dense_ms / 1.5)
    assert latency["predicted_ms"] <= latency["asked_ms"] + 1e-6


def test_an_estimate_is_called_one(
    run: ScoringRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prune", "--scores", str(run.folder), "--speedup", "1.5", "--target", "l4"]
    assert main([*command, "--out", str(tmp_path / "out"), *SMALL]) == 0
    assert "latency, estimated from peak rates, nothing was run" in capsys.readouterr().out
    latency = json.loads((tmp_path / "out" / "figures.json").read_text())["latency"]
    assert latency["is_estimate"] is True and latency["target"] == "l4"
    assert latency["clock"] is None
    assert latency["predicted_ms"] <= latency["dense_ms"] / 1.5 + 1e-9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--speedup", "2", "--budget", "0.5"], "do not go together. Give one"),
        (["--speedup", "2", "--latency", "1ms"], "Give a latency or a speed-up, one of the two"),
        (["--latency", "12.5"], "with its unit, such as 12.5ms, 800us or 0.2s, got '12.5'"),
        (["--speedup", "1.2", "--target", "l5"], "There is no target 'l5'"),
        (["--speedup", "90", "--target", "l4"], "cannot be reached"),
        (["--speedup", "2", "--target", "l4", "--precision", "fp17"], "has no rate for 'fp17'"),
        (["--speedup", "1.2", "--precision", "int8"], "measured in fp32 on the CPU, got 'int8'"),
        (["--target", "l4"], "--target is for a budget in milliseconds: give --scores RUN, and"),
        (["--table.length", "3"], "--table.* is for a budget in milliseconds"),
        (["--speedup", "1.2", "--table.num_points", "1"], "num_points of 2 or more"),
    ],
)
def test_what_does_not_fit_is_a_message(
    flags: list[str], message: str, run: ScoringRun, tmp_path: Path, capsys
) -> None:
    command = ["prune", "--scores", str(run.folder), "--out", str(tmp_path / "out")]
    assert main([*command, *flags]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [["--plan", "p.json"], []], ids=["plan", "gates"])
def test_latency_needs_scores(how: list[str], tmp_path: Path, capsys) -> None:
    assert main(["prune", "m", *how, "--speedup", "2", "--out", str(tmp_path / "o")]) == 1
    assert "--speedup is for a budget in milliseconds: give --scores" in capsys.readouterr().err


def test_a_used_folder_is_refused_before_the_measurement(
    run: ScoringRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "profiles.latency.measure_table.measure_table", lambda *_: pytest.fail("measured")
    )
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["prune", "--scores", str(run.folder), "--speedup", "2", "--out", str(tmp_path)])
