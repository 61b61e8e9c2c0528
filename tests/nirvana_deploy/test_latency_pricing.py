"""Budgets in milliseconds, with a table that is made up: no graph is traced here."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nirvana_deploy as api
from nirvana_deploy.cli import main
from nirvana_deploy.runs.deploy_stages import list_pruning_stages
from nirvana_deploy.runs.recipe import Recipe, load_recipe
from profiles.latency.latency_config import LatencyConfig, TableConfig
from profiles.latency.latency_table import LatencyCurve, LatencyTable
from pruning.allocation.levels import list_items
from pruning.errors import NirvanaError
from pruning.gates.projection import find_unit_cost
from pruning.gates.prune_config import PruneConfig, ScheduleConfig
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import PruningPlan
from pruning.scoring.scoring_run import ScoringRun, load_run
from tests.pruning.oneshot.tiny_runs import oneshot, scoring, write_model, write_text
from tests.pruning.training.tiny_tasks import write_headed, write_rows

SMALL = ["--constraints.neuron_multiple", "8", "--repair", "no_repair"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScoringRun:
    folder = tmp_path_factory.mktemp("scored")
    model, text = write_model(folder / "model", "classification"), write_text(folder / "text")
    api.score(model, scoring(text), out=folder / "run")
    return load_run(folder / "run")


def make_table(stack: StackDims) -> LatencyTable:
    groups, neurons = stack.num_kv_heads, stack.intermediate_size
    return LatencyTable(
        stack=stack,
        attention=LatencyCurve(kept=(0, groups), latency_ms=(0.0, 1.0)),
        mlp=LatencyCurve(kept=(0, neurons), latency_ms=(0.0, 2.0)),
        block_ms=0.1,
        dense_ms=4.0 + 3.1 * stack.num_layers,
        rest_ms=4.0,
        measured={},
    )


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> Callable[[LatencyTable], list[str]]:
    """Put a table in the place of what is measured; the list gets the models that are asked for."""
    asked: list[str] = []

    def put(made: LatencyTable) -> list[str]:
        def measure(model: Any, config: TableConfig, **_: Any) -> LatencyTable:
            assert not model.training and model.config._attn_implementation == "eager"
            assert config.length == 24
            asked.append(type(model).__name__)
            return made

        monkeypatch.setattr("profiles.latency.measure_table.measure_table", measure)
        return asked

    return put


@pytest.fixture
def table(run: ScoringRun, measures: Callable[[LatencyTable], list[str]]) -> LatencyTable:
    made = make_table(run.dims.stacks[0])
    measures(made)
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
    asked = LatencyConfig(speedup=1.5, table=TableConfig(length=24))
    (found,) = api.prune_from_scores(run, [], oneshot(), out=tmp_path / "out", latency=asked)
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
        (["--target", "l4"], "--target is for a budget in milliseconds: give --latency TIME or"),
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


def test_a_plan_takes_no_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "m", "--plan", "p.json", "--speedup", "2", "--out", str(tmp_path / "o")]
    assert main(command) == 1
    assert "--speedup is for learning what to keep; --plan says it" in capsys.readouterr().err


QUICK = PruneConfig(
    num_epochs=2,
    batch_size=8,
    gate_learning_rate=0.3,
    sequence_length=16,
    warm_start_rows=16,
    schedule=ScheduleConfig(num_stages=1),
    bf16=False,
)


def test_gates_learn_to_meet_a_latency(
    measures: Callable[[LatencyTable], list[str]], tmp_path: Path
) -> None:
    """Their table has a plateau from 16 neurons to 40: what lies on it is no choice."""
    source = write_headed(tmp_path / "m", "classification", num_labels=3, **LABELS)
    data = write_rows(tmp_path / "rows", "classification")
    stack = PruningPlan.load(write_dense_plan(source, tmp_path)).dims.stacks[0]
    steps = LatencyCurve(kept=(0, 8, 16, 40, 48), latency_ms=(0.0, 0.5, 1.0, 1.0, 2.0))
    asked_models = measures(replace(make_table(stack), mlp=steps))
    made = replace(make_table(stack), mlp=steps)
    said: list[str] = []

    def prune(**asked: Any) -> dict[str, Any]:
        said.clear()
        result = api.prune(
            source,
            QUICK,
            out=tmp_path / "out",
            data=data,
            fine_tuned=True,
            latency=LatencyConfig(**asked, table=TableConfig(length=24)),
            say=said.append,
        )
        plan, latency = PruningPlan.load(result.plan), result.figures["latency"]
        predicted = made.predict_ms(plan)
        assert latency["predicted_ms"] == pytest.approx(predicted)
        step_ms = find_unit_cost(plan.dims, made, QUICK.constraints, QUICK.units) / 1e6
        assert latency["asked_ms"] - step_ms < predicted <= latency["asked_ms"] + 1e-6
        (mlp,) = {
            i.counts for i in list_items(plan.dims, made, QUICK.constraints) if i.part == "mlp"
        }
        assert mlp == (0, 8, 40, 48)
        assert {layer.num_kept_neurons for layer in plan.layers} <= set(mlp)
        assert plan.made_by["cost"] == "nanoseconds" and plan.made_by["latency"] == {
            key: value for key, value in latency.items() if key != "predicted_ms"
        }
        assert [what for what, _ in result.headline()][1].startswith("latency, predicted from a")
        return latency

    assert prune(speedup=1.3)["asked_ms"] == pytest.approx(made.dense_ms / 1.3)
    assert asked_models == ["BertForSequenceClassification"]
    assert prune(at_most="9ms")["asked_ms"] == 9.0
    assert any(line.startswith("prune: runs again") for line in said)
    assert (tmp_path / "out" / "latency" / "table.json").is_file()
    with pytest.raises(NirvanaError, match=r"latency of 2 ms cannot be reached: .*at least 4.3 ms"):
        prune(at_most="2ms")
    assert not any(line.startswith("prune:") for line in said), "it is refused before any training"


LABELS = {
    "id2label": {0: "games", 1: "mail", 2: "math"},
    "label2id": {"games": 0, "mail": 1, "math": 2},
}


def write_dense_plan(source: Any, folder: Path) -> Path:
    from pruning.checkpoints.model_skeleton import build_skeleton
    from pruning.cutting.wiring_inference import read_model

    read_model(build_skeleton(str(source))).current.save(folder / "dense.json")
    return folder / "dense.json"


def test_scores_in_a_run_folder_meet_a_latency(
    measures: Callable[[LatencyTable], list[str]], tmp_path: Path
) -> None:
    source = write_headed(tmp_path / "m", "classification", num_labels=3, **LABELS)
    data = write_rows(tmp_path / "rows", "classification")
    made = make_table(PruningPlan.load(write_dense_plan(source, tmp_path)).dims.stacks[0])
    measures(made)
    result = api.prune(
        source,
        oneshot(scoring=scoring(write_text(tmp_path / "text"))),
        out=tmp_path / "out",
        data=data,
        fine_tuned=True,
        latency=LatencyConfig(speedup=1.4, table=TableConfig(length=24)),
        say=lambda _: None,
    )
    predicted = made.predict_ms(PruningPlan.load(result.plan))
    assert result.figures["latency"]["predicted_ms"] == pytest.approx(predicted)
    assert predicted <= made.dense_ms / 1.4 + 1e-6


def test_a_recipe_asks_for_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("model: m\nlatency: {at_most: 12.5ms, table: {batch: 8}}\n")
    recipe = load_recipe(path)
    assert recipe.latency == LatencyConfig(at_most="12.5ms", table=TableConfig(batch=8))
    names = [stage.name for stage in list_pruning_stages(recipe)]
    assert names == ["baseline", "latency", "prune"]
    scored = Recipe(model="m", prune=oneshot(), latency=recipe.latency)
    stages = list_pruning_stages(scored)
    assert [stage.name for stage in stages] == ["baseline", "latency", "score", "prune"]
    assert stages[-1].reads == ("baseline", "score", "latency")
    path.write_text("model: m\nprune: {budget: 0.4}\nlatency: {speedup: 2}\n")
    with pytest.raises(NirvanaError, match=r"latency takes the place of prune.budget, and 0.4 was"):
        load_recipe(path)
    path.write_text("model: m\nlatency: {}\n")
    with pytest.raises(NirvanaError, match="latency: Give a latency or a speed-up, one of the two"):
        load_recipe(path)


def test_a_used_folder_is_refused_before_the_measurement(
    run: ScoringRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "profiles.latency.measure_table.measure_table", lambda *_: pytest.fail("measured")
    )
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["prune", "--scores", str(run.folder), "--speedup", "2", "--out", str(tmp_path)])
