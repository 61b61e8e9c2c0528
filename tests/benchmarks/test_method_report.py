"""The bars of the comparison, and the cells that they are made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


def cell(method: str, increase: float, seed: int = 0, steps: int = 0) -> dict[str, Any]:
    asked = {"model": "encoder", "method": method, "budget": 0.5, "seed": seed, "steps": steps}
    return {**asked, "loss_increase": increase}


def test_ours_is_held_against_the_best_mean_of_a_peer() -> None:
    from method_report import make_bars

    cells = [cell("ours", 0.1), cell("ours", 0.3, seed=1)]
    cells += [cell("flap", 0.2), cell("flap", 0.6, seed=1), cell("nirvana", 0.5)]
    cells.append({**cell("magnitude", 0.0), "loss_increase": 0.01, "budget": 0.8})
    (bar,) = make_bars(cells, 0.5)
    assert "flap" in bar["name"]
    assert bar["value"] == pytest.approx(0.5)
    assert bar["met"]


def test_failed_cells_are_no_peers() -> None:
    from method_report import make_bars

    failed = {k: v for k, v in cell("flap", 0.0).items() if k != "loss_increase"}
    assert make_bars([cell("ours", 0.1), {**failed, "failed": "why"}], 0.5) == []


def test_gates_and_the_best_one_shot_are_compared_with_all_that_trained() -> None:
    from method_report import make_bars

    losses = {"ours": 0.2, "gates": 0.25, "cofi-hard-concrete": 0.4, "torch-pruning-x": 0.3}
    bars = make_bars([cell(m, loss, steps=9) for m, loss in losses.items()], 0.5)
    found = {bar["name"].split(", ")[-1]: (bar["value"], bar["met"]) for bar in bars}
    assert found == {
        "gates minus ours": (pytest.approx(0.05), False),
        "gates minus cofi-hard-concrete": (pytest.approx(-0.15), True),
        "ours minus cofi-hard-concrete": (pytest.approx(-0.2), True),
        "gates minus torch-pruning-x": (pytest.approx(-0.05), True),
        "ours minus torch-pruning-x": (pytest.approx(-0.1), True),
    }


def test_cells_outlive_a_run_that_was_killed(tmp_path: Path) -> None:
    from method_cells import CellFile, Key

    key = Key(model="m", method="x", budget=0.5, seed=0, steps=0, settings="a", sources="b")
    path = tmp_path / "cells.jsonl"
    CellFile(path).add(key, {"loss": 1.0})
    with path.open("a") as file:
        file.write('{"key": {"model": "m", "met')
    CellFile(path).add(replace(key, seed=1), {"loss": 2.0})
    cells = CellFile(path)
    assert [cells.find(replace(key, seed=seed)) for seed in (0, 1)] == [
        {"loss": 1.0},
        {"loss": 2.0},
    ]
    assert cells.find(replace(key, sources="c")) is None


def test_a_hash_covers_what_is_imported_and_nothing_else() -> None:
    from method_cells import ROOT, _list_imports

    found = {path.name for path in _list_imports(ROOT / "benchmarks" / "mask_tuning.py")}
    assert {"watch.py", "block_walk.py", "plan.py"} <= found
    assert "method_ours.py" not in found


def test_older_cells_are_found_when_asked_for_and_say_so(tmp_path: Path) -> None:
    from method_cells import CellFile, Key

    key = Key(
        model="m", method="ours", budget=0.5, seed=0, steps=0, settings="s", sources="earlier"
    )
    cells = CellFile(tmp_path / "cells.jsonl")
    cells.add(key, {"loss": 1.0})
    now = replace(key, sources="now")
    assert cells.find(now) is None
    assert cells.find_older(now) == {"loss": 1.0, "sources": "earlier"}
    assert cells.find_older(replace(now, seed=1)) is None
    assert cells.find_older(replace(now, settings="other")) is None
