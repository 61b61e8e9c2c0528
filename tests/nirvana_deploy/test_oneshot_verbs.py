"""Scoring once and pruning to several budgets, from the command line and from Python."""

import json
import re
from pathlib import Path

import pytest

import nirvana_deploy
import nirvana_deploy as api
from nirvana_deploy.cli import main
from pruning.errors import NirvanaError
from tests.pruning.oneshot.tiny_runs import oneshot, scoring, write_model, write_text
from tests.pruning.training.tiny_tasks import write_rows


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"), "classification")


@pytest.fixture(scope="module")
def run(tmp_path_factory, model: str, text: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    api.score(model, scoring(text), out=out)
    return out


SMALL = ["--constraints.neuron_multiple", "8", "--sequence_length", "16"]


def test_score_and_prune_from_the_command_line(
    tmp_path: Path, model: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(tmp_path / "run"), tmp_path / "out"
    flags = ["--calibration.source", str(text), "--calibration.num_sequences", "8"]
    flags += ["--calibration.sequence_length", "16", "--calibration.num_draws", "2"]
    assert main(["score", model, "--out", run, *flags]) == 0
    said = capsys.readouterr()
    assert "score: 2 of 2" in said.err
    assert "damage curves: 6 of 6" in said.err
    assert "8 sequences" in said.out
    assert re.search(r"text +\S+, column text *\n", said.out)
    assert "nirvana prune --scores" in said.out
    command = ["prune", "--scores", run, "--budget", "0.7", "0.4", "--out", str(out)]
    assert main([*command, *SMALL, "--repair", "no_repair"]) == 0
    said = capsys.readouterr()
    assert "prune to 0.4: 3 of 3" in said.err
    assert "Pruned to 0.7" in said.out and "Pruned to 0.4" in said.out
    assert sorted(path.name for path in out.iterdir()) == ["0.4", "0.7"]
    plan = nirvana_deploy.PruningPlan.load(out / "0.7" / "plan.json")
    assert plan.made_by["repair"] == "NoRepair"
    assert nirvana_deploy.load(out / "0.4" / "checkpoint").config.model_type == "bert"


def test_labelled_rows_are_scored_before_and_after(
    tmp_path: Path, run: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures are those of `nirvana evaluate` of both checkpoints, and are printed."""
    write_rows(tmp_path / "rows", "classification", num_validation=40)
    file = tmp_path / "rows" / "validation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    numbers = {name: str(number) for number, name in enumerate(sorted({r["label"] for r in rows}))}
    lines = [json.dumps({**row, "label": numbers[row["label"]]}) for row in rows]
    file.write_text("\n".join(lines) + "\n")
    command = ["prune", model, "--scores", str(run), "--budget", "0.4", *SMALL]
    assert main([*command, "--out", str(tmp_path / "out"), "--data.dataset", str(file)]) == 0
    assert re.search(r"accuracy +\d+\.\d% -> \d+\.\d%", capsys.readouterr().out)
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["task"] == "classification"
    for name, checkpoint in (("dense", model), ("pruned", str(tmp_path / "out" / "checkpoint"))):
        scores = api.evaluate(checkpoint, file).scores
        assert figures[name]["accuracy"] == pytest.approx(scores["accuracy"].value)
        assert figures[name]["loss"] == pytest.approx(scores["loss"].value, rel=1e-4)


def test_one_budget_goes_into_the_folder_itself(tmp_path: Path, run: Path, model: str) -> None:
    command = ["prune", model, "--scores", str(run), "--budget", "0.5", "--cost", "bytes"]
    assert main([*command, "--out", str(tmp_path / "out"), *SMALL]) == 0
    assert (tmp_path / "out" / "checkpoint" / "config.json").is_file()
    (found,) = api.prune_from_scores(run, [0.5], oneshot(cost="bytes"), out=tmp_path / "again")
    assert found.figures["budget"]["cost"] == "bytes"
    assert found.plan.read_text() == (tmp_path / "out" / "plan.json").read_text()
    assert dict(found.headline())["checkpoint"] == str(tmp_path / "again" / "checkpoint")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scoring.saliency", "flap"], "--scoring.* has no use with --scores"),
        (["--baseline.seed", "1"], "--baseline.* has no use with --scores"),
        (["--fine_tuned"], "--fine-tuned has no use with --scores"),
        (["--schedule.num_stages", "2"], "--schedule.* sets how gates are learned"),
        (["--budget", "0.5", "0.5"], "Each budget makes a folder; 0.5 was given twice"),
        (["--budget", "1.5"], "budget must be a fraction above 0 and at most 1"),
        (
            ["--budget", "0.01", "--constraints.may_drop", "false"],
            "A budget of 0.01 cannot be reached",
        ),
        (["--repair", "mean_shift", "--repair.damping", "1"], "do not go together"),
        (
            ["--num_epochs", "1"],
            "--num-epochs sets how gates are learned, and --scores learns none",
        ),
        (["--data.max_length", "16"], "--data.max-length is for rows to train on or to score"),
        (["--plan", "p.json"], "--scores is a setting for learning what to keep"),
    ],
)
def test_what_does_not_fit_is_a_message_and_exit_1(
    flags: list[str], message: str, tmp_path: Path, run: Path, model: str, capsys
) -> None:
    command = ["prune", model, "--scores", str(run), "--out", str(tmp_path / "out")]
    assert main([*command, *SMALL, *flags] if "--plan" not in flags else [*command, *flags]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prune", "--out", "o"], 1, "Expected a MODEL to prune, got none"),
        (["prune", "m", "--out", "o", "--budget", "0.5", "0.3"], 1, "one budget at a time, got 2"),
        (["prune", "m", "--out", "o", "--budget", "half"], 2, "invalid float value: 'half'"),
        (["prune", "--scores", "no", "--out", "o"], 1, "Expected a scoring run in no, found no"),
        (["score", "m", "--out", "o", "--saliency", "obz"], 1, "Did you mean 'obs'?"),
        (["score", "./no", "--out", "o"], 1, "There is no model folder at ./no"),
        (["score", "m", "--out", "o", "--allocation", "fair"], 2, "invalid choice: 'fair'"),
        (
            ["prune", "m", "--out", "o", "--schedule.num_stages", "2", "--repair", "no_repair"],
            1,
            "prune: the keys repair, schedule do not go together",
        ),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert message in capsys.readouterr().err


def test_used_folders_are_refused_before_any_work(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    monkeypatch.setattr("pruning.oneshot.prune_with_scores.load_dense", None)
    for budgets in ([0.5], [0.5, 0.3]):
        with pytest.raises(NirvanaError, match="holds something already"):
            api.prune_from_scores(run, budgets, oneshot(), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_is_nothing_to_load_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"is neither a pruned checkpoint .* nor the folder of"):
        nirvana_deploy.load(tmp_path)
