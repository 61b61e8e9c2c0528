import json
from pathlib import Path

import pytest

from nirvana_deploy.cli import main
from pruning.plans.plan import PruningPlan
from tests.pruning.allocation.small_dims import GROUPED


def test_all_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    shown = capsys.readouterr().out
    assert "rtx-4090" in shown and "989.4*" in shown and "1555" in shown


def test_one_target_comes_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "l4"]) == 0
    shown = capsys.readouterr().out
    assert "NVIDIA L4" in shown and "https://" in shown and "unsourced" in shown


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    found = {target["name"]: target for target in json.loads(capsys.readouterr().out)}
    assert found["t4"]["tera_ops_per_s"]["fp16"]["value"] == 65
    assert main(["targets", "t4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found["t4"]


def test_an_unknown_target_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "a1000"]) == 1
    assert "There is no target 'a1000'" in capsys.readouterr().err


def test_a_plan_is_estimated_and_called_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    PruningPlan.dense(GROUPED, "").save(path)
    assert main(["targets", "--plan", str(path), "--precision", "fp8"]) == 0
    shown = capsys.readouterr().out
    assert "ESTIMATES" in shown and "l4" in shown and "1.00" in shown and "launch-bound" in shown
    assert "t4" not in shown  # it has no fp8
    assert "Based on unsourced figures" in shown
    assert main(["targets", "t4", "--plan", str(path), "--batch", "8", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["dense"] == row["pruned"] and row["dense"]["is_estimate"] is True
    assert row["dense"]["batch"] == 8
    assert main(["targets", "t4", "--plan", str(path), "--precision", "fp8"]) == 1
    assert "has no rate for 'fp8'" in capsys.readouterr().err
