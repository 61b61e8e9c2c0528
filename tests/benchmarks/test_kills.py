"""What the benchmark of killed verbs counts, with a verb that writes two files."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import kills
import pytest


def _write_two(out: Path) -> None:
    out.mkdir(exist_ok=True)
    (out / "one.json").write_text(json.dumps({"a": 1, "seconds": time.monotonic()}))
    (out / "two.bin").write_bytes(b"two")


def _hang(out: Path) -> None:
    time.sleep(600)


def _fail(out: Path) -> None:
    raise ValueError("the folder is half written")


def test_two_runs_are_alike_but_for_their_times_and_a_changed_value_is_seen(tmp_path: Path) -> None:
    case = kills.Case("two", _write_two, "out")
    ended = [kills.fork(case, tmp_path / name) for name in "ab"]
    assert [run.how for run in ended] == ["done", "done"]
    assert ended[0].used.operation >= 3
    first, second = (kills.list_files(tmp_path / name) for name in "ab")
    assert first == second
    assert set(first) == {"made/out", "made/out/one.json", "made/out/two.bin"}

    (tmp_path / "b/made/out/one.json").write_text('{"a": 2}')
    (tmp_path / "b/made/.left").mkdir()
    verdict = kills.judge("done", "", first, kills.list_files(tmp_path / "b"))
    assert verdict == {
        "differing": 1,
        "leftovers": 1,
        "blocked": 0,
        "finished_before_kill": 0,
        "examples": ["differs: made/out/one.json", "left: made/.left"],
    }


@pytest.mark.parametrize("operation", [1, 2, 3])
def test_a_process_is_killed_before_an_operation(operation: int, tmp_path: Path) -> None:
    ended = kills.fork(
        kills.Case("two", _write_two, "o"), tmp_path, kills.Moment(operation=operation)
    )
    assert ended.how == "killed"
    whole = ["made/o", "made/o/one.json", "made/o/two.bin"]
    assert sorted(kills.list_files(tmp_path)) == whole[: operation - 1]


def test_a_killed_process_is_told_from_one_that_failed(tmp_path: Path) -> None:
    moment = kills.Moment(time=0.1)
    assert kills.fork(kills.Case("hang", _hang, "out"), tmp_path, moment).how == "killed"
    counts: Counter[str] = Counter()
    case = kills.Case("fail", _fail, "out")
    draw, whole = random.Random(1), kills.Moment(operation=100, processor=100, time=100)
    assert kills._run_round(case, tmp_path, whole, draw, 1, counts) == "failed"
    assert "half written" in (tmp_path / "errors.log").read_text()


@pytest.mark.parametrize(
    ("log", "found", "blocked"),
    [
        ("The output folder out holds something already. Choose", {"a": "1"}, 0),
        ("The output folder out holds something already. Choose", {"a": "2"}, 1),
        ("The output folder out holds something already. Choose", {}, 1),
        ("ValueError: b", {"a": "1"}, 1),
    ],
)
def test_a_refused_run_is_no_block_only_where_its_output_is_whole(
    log: str, found: dict[str, str], blocked: int
) -> None:
    verdict = kills.judge("failed", log, {"a": "1"}, found)
    assert (verdict["blocked"], verdict["finished_before_kill"]) == (blocked, 1 - blocked)


def test_a_finished_stage_that_ran_again_has_another_manifest(tmp_path: Path) -> None:
    stage, hidden = tmp_path / "prune", tmp_path / ".export.partial"
    for folder in (stage, hidden):
        folder.mkdir()
        (folder / "manifest.json").write_text('{"result": {}, "seconds": 1}')
    assert set(kills.read_finished(tmp_path)) == {"prune/manifest.json"}


def test_nothing_is_met_where_nothing_was_killed() -> None:
    bars = kills.summarize({}, 0, 200, 1)["bars"]
    assert [bar["met"] for bar in bars] == [False] * 6
    cell = {**dict.fromkeys(kills._KEYS, 0), "kills": 200, "differing": 1}
    bars = kills.summarize(dict.fromkeys("abcde", cell), 0, 200, 1)["bars"]
    assert [bar["met"] for bar in bars] == [True, True, True, False, True, True]


def test_a_campaign_that_was_stopped_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "kills.json"
    assert kills.read_unfinished(path, 0, 200) == {}
    cell = {**dict.fromkeys(kills._KEYS, 0), "kills": 3}
    path.write_text(json.dumps(kills.summarize({"score": cell}, 0, 200, 1)))
    assert kills.read_unfinished(path, 0, 200)["verbs"] == {"score": cell}
    assert kills.read_unfinished(path, 1, 200) == {}
    path.write_text(json.dumps(kills.summarize({"score": {**cell, "kills": 200}}, 0, 200, 1)))
    assert kills.read_unfinished(path, 0, 200) == {}
