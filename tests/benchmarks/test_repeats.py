"""The repeats of a test count what failed, and keep its traceback."""

from __future__ import annotations

from pathlib import Path

import repeats


def test_a_failure_and_a_collection_error_are_kept(tmp_path: Path) -> None:
    good, bad, broken = (tmp_path / f"test_{name}.py" for name in ("good", "bad", "broken"))
    good.write_text("def test_it():\n    pass\n")
    bad.write_text("def test_it():\n    assert 1 == 2, 'flickers'\n")
    broken.write_text("import no_such_module\n")
    runs = [repeats.run_once([str(path)]) for path in (good, bad, broken)]
    assert [run["tests"] for run in runs[:2]] == [1, 1]
    assert [len(run["failures"]) for run in runs] == [0, 1, 1]
    assert "flickers" in runs[1]["failures"][0]["traceback"]
    assert "no_such_module" in runs[2]["failures"][0]["traceback"]
    told = repeats.summarize(["a"], 3, runs)
    assert [bar["met"] for bar in told["bars"]] == [True, True, False]


def test_a_path_that_is_not_there_fails() -> None:
    run = repeats.run_once(["tests/no_such_test.py"])
    assert (run["tests"], len(run["failures"])) == (0, 1)
