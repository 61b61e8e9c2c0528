"""A sweep of a real graph, and what its settings refuse."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from nirvana_deploy.cli import main
from profiles.measuring.measure_config import SweepConfig
from profiles.measuring.sweep import sweep_model
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import VOCAB, save_encoder

SMALL: dict[str, Any] = {"length": 4, "vocab_size": VOCAB, "num_rounds": 3, "num_requests": 2}


def test_both_curves_are_measured(tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(save_encoder(tmp_path / "m.onnx"), name="pruned", num_threads=1)
    result = sweep_model(runner, SweepConfig(batch_sizes=(1, 3), callers=(1, 2), **SMALL))
    told = json.loads(json.dumps(result.to_json()))
    assert [(p["batch"], p["num_samples"]) for p in told["batches"]] == [(1, 3), (3, 3)]
    for point in told["batches"]:
        assert point["rows_per_s"] == pytest.approx(1000 * point["batch"] / point["median_ms"])
    assert [(c["num_callers"], c["num_samples"]) for c in told["callers"]] == [(1, 2), (2, 4)]
    assert told["callers"][0]["p90_ms"] is None
    assert "64" in told["callers"][0]["p90_note"]
    assert told["environment"]["num_threads"] >= 1
    assert told["model"] == "pruned"


def test_one_curve_alone_is_measured(tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(save_encoder(tmp_path / "m.onnx"), num_threads=1)
    result = sweep_model(runner, SweepConfig(batch_sizes=(), callers=(1,), **SMALL))
    assert result.batches == ()
    assert len(result.callers) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sizes": (1, 1)}, "batch_sizes must be 1 or more and differ from each other"),
        ({"callers": (0,)}, "callers must be 1 or more and differ from each other, got 0"),
        ({"batch_sizes": (), "callers": ()}, "needs batch_sizes or callers, got neither"),
        ({"num_rounds": 0}, "num_rounds must be 1 or more, got 0"),
        ({"past": -1}, "past must be 0 or more, got -1"),
        ({"num_threads": 0}, "num_threads must be 1 or more, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        SweepConfig(**change)


def test_the_verb_writes_what_the_report_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = save_encoder(tmp_path / "m.onnx"), tmp_path / "new" / "sweep.json"
    given = ["sweep", str(model), "--out", str(out), "--batch_sizes", "1,2", "--callers", "1,2"]
    given += [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    assert main(given) == 0
    assert "callers 2" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["report", str(out), "--out", str(page)]) == 0
    assert "Answers per second by callers at a time, length 4" in page.read_text()
    assert main(given) == 1
    assert "sweep.json exists already" in capsys.readouterr().err


def test_tables_have_a_row_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_encoder(tmp_path / "model.onnx")
    given = ["sweep", str(tmp_path), "--batch_sizes", "1,3", "--callers", "2"]
    given += [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    for ending in ("csv", "md"):
        assert main([*given, "--out", str(tmp_path / f"sweep.{ending}")]) == 0
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [(r["batch"], r["num_callers"], r["num_samples"], r["p90_ms"]) for r in rows] == [
        ("1", "1", "3", ""), ("3", "1", "3", ""), ("1", "2", "4", ""),
    ]  # fmt: skip
    assert float(rows[1]["per_s"]) == pytest.approx(3000 / float(rows[1]["median_ms"]))
    assert all(row["semantics"].startswith("ours") for row in rows)
    table = (tmp_path / "sweep.md").read_text()
    assert "| 1 | 2 | " in table and "pruned, length 4: ours" in table
    assert main([*given, "--out", str(tmp_path / "sweep.txt")]) == 1
    assert "says by its ending what is written: .json, .csv, .md" in capsys.readouterr().err
