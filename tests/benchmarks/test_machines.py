"""Runs on other machines are counted, and those that could not be made are not."""

import sys
from pathlib import Path

import machines
import pytest
import repeats


def test_failed_and_missing_runs_miss_their_bars() -> None:
    runs = {
        "Python 3.12": {"part": "pythons", "tests": 3, "failures": []},
        "Python 3.13": {"part": "pythons", "tests": 3, "failures": [{"test": "a"}]},
        "Python 3.14": {"part": "pythons", "skipped": "no Python 3.14 here"},
    }
    bars = {bar["name"]: (bar["value"], bar["met"]) for bar in machines.summarize(runs)["bars"]}
    assert bars == {
        "pythons: whole runs": (2, False),
        "pythons: failures": (1, False),
        "processors: whole runs": (0, False),
        "load: whole runs": (0, False),
    }


def test_a_failure_is_kept_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "machines.json"
    told = iter([{"tests": 2, "failures": [{"test": "a", "traceback": "b"}]}])
    monkeypatch.setattr(machines, "run_tests", lambda *_: next(told))
    command = ["machines.py", "load", "--times", "1", "--busy", "0", "--out", str(out)]
    for _ in range(2):  # the second time there is no run left to make
        monkeypatch.setattr(sys, "argv", command)
        machines.main()
    assert '"traceback": "b"' in out.read_text()


def test_other_work_is_there_during_a_run_and_gone_after_it() -> None:
    with machines.keep_busy(2):
        children = machines.multiprocessing.active_children()
        assert len(children) == 2
    for child in children:
        child.join(timeout=30)
        assert not child.is_alive()


def test_the_python_that_is_asked_for_is_found() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = machines.find_python(version)
    if found is None:
        pytest.skip(f"no python{version} on the path")
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    assert machines.run([found, "-c", code]).stdout.strip() == version
    assert machines.find_python("3.1") is None


def test_a_failure_does_not_say_where_the_files_are() -> None:
    text = "File /some/place/clone/tests/test_a.py: /var/lib/x-1.2/y.json is missing, 3/4 done"
    stripped = repeats.strip_places(text, Path("/some/place/clone"))
    assert stripped == "File tests/test_a.py: .../y.json is missing, 3/4 done"
