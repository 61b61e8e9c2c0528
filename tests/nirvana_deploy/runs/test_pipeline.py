"""A run: what is skipped, what runs again, what resumes, and what a kill cannot break."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nirvana_deploy.runs.recipe import load_recipe
from nirvana_deploy.runs.stage import Stage
from pruning.errors import NirvanaError
from tests.nirvana_deploy.fake_stages import NUM_STEPS, make_stages, run_fake

ROOT = Path(__file__).parents[3]


def start_fake(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.nirvana_deploy.fake_stages", *arguments]
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def visible(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if not path.name.startswith(".")}


def leftovers(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.name.startswith(".")} - {".lock"}


def read_manifest(out: Path, stage: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((out / stage / "manifest.json").read_text())
    return manifest


def test_a_run_leaves_a_folder_and_a_manifest_a_stage(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    outcome = run_fake(out)
    assert outcome.skipped == ()
    assert visible(out) == {"run.json", "recipe.yaml", "train", "cut", "show"}
    assert leftovers(out) == set()
    assert (out / "show" / "shown.txt").read_text() == "shown: seed 0, cut 0.5"
    manifest = read_manifest(out, "cut")
    assert {"stage", "key", "started", "seconds", "result"} <= manifest.keys()
    assert manifest["result"] == {"text": "seed 0, cut 0.5", "first_step": 0}
    assert set(manifest["files"]) == {"model/weights.txt", "model/config.json"}
    assert not (out / "cut" / "trainer").exists()
    assert load_recipe(out / "recipe.yaml").prune.budget == 0.5


def test_a_second_run_skips_everything_and_returns_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    first = run_fake(tmp_path / "r")
    second = run_fake(tmp_path / "r", say=said.append)
    assert second.skipped == ("train", "cut", "show")
    assert second.results == first.results
    assert said == [f"{name}: finished before, skipped" for name in second.skipped]


@pytest.mark.parametrize(
    ("changed", "skipped", "reason"),
    [
        ({"seed": 1}, (), "train: runs again (seed: 0 -> 1)"),
        ({"budget": 0.25}, ("train",), "cut: runs again (prune.budget: 0.5 -> 0.25)"),
    ],
    ids=["first-stage", "middle-stage"],
)
def test_a_changed_recipe_runs_again_what_it_touches(
    changed: dict[str, Any], skipped: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    run_fake(tmp_path)
    said: list[str] = []
    outcome = run_fake(tmp_path, **changed, say=said.append)
    assert outcome.skipped == skipped
    assert reason in said
    settings = {"seed": 0, "budget": 0.5, **changed}
    expected = f"shown: seed {settings['seed']}, cut {settings['budget']}"
    assert (tmp_path / "show" / "shown.txt").read_text() == expected
    assert leftovers(tmp_path) == set()


def test_a_change_of_versions_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_fake(tmp_path)
    monkeypatch.setattr("nirvana_deploy.fingerprints.find_version", lambda _: "99")
    said: list[str] = []
    assert run_fake(tmp_path, say=said.append).skipped == ()
    assert any(line.startswith("train: runs again (nirvana-deploy ") for line in said)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "model/weights.txt is missing"),
        (lambda path: path.write_text("x"), "model/weights.txt has 1 bytes, not 15"),
        (lambda path: path.write_text("seed 9, cut 0.5"), "model/weights.txt was changed"),
    ],
    ids=["deleted", "truncated", "edited"],
)
def test_a_damaged_stage_runs_again(
    damage: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    run_fake(tmp_path)
    damage(tmp_path / "cut" / "model" / "weights.txt")
    said: list[str] = []
    outcome = run_fake(tmp_path, say=said.append)
    assert f"cut: runs again (its file {reason})" in said
    # `cut` made the same files again, so that `show` still holds.
    assert outcome.skipped == ("train", "show")
    assert (tmp_path / "cut" / "model" / "weights.txt").read_text() == "seed 0, cut 0.5"


def test_a_large_file_of_the_same_size_is_looked_into_when_its_time_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nirvana_deploy.runs.stage_folder._ALWAYS_HASHED_BYTES", 0)
    run_fake(tmp_path)
    (tmp_path / "cut" / "model" / "weights.txt").write_text("seed 9, cut 0.5")
    assert "cut" not in run_fake(tmp_path).skipped


def test_files_that_came_out_different_run_the_readers_again(tmp_path: Path) -> None:
    """An upstream stage that is not deterministic must not leave stale results below it."""
    run_fake(tmp_path)
    (tmp_path / "train" / "model" / "config.json").unlink()

    def other_train(inputs: Any, out_dir: Path) -> dict[str, str]:
        (out_dir / "model").mkdir()
        (out_dir / "model" / "weights.txt").write_text("seed 0 (b)")
        return {}

    train, *others = make_stages()
    stages = (Stage(name="train", settings=train.settings, run=other_train), *others)
    assert run_fake(tmp_path, stages=stages).skipped == ()
    assert (tmp_path / "show" / "shown.txt").read_text() == "shown: seed 0 (b), cut 0.5"


def test_a_damaged_manifest_runs_the_stage_again(tmp_path: Path) -> None:
    run_fake(tmp_path)
    (tmp_path / "cut" / "manifest.json").write_text('{"stage": "cu')
    said: list[str] = []
    assert run_fake(tmp_path, say=said.append).skipped == ("train", "show")
    assert "cut: its manifest is damaged; it runs again" in said


def test_a_failing_stage_keeps_what_is_finished_and_its_old_folder(tmp_path: Path) -> None:
    run_fake(tmp_path)

    def fail(inputs: Any, out_dir: Path) -> dict[str, str]:
        raise NirvanaError("the weights are corrupt")

    train, cut, show = make_stages()
    broken = Stage(name="cut", reads=cut.reads, settings=cut.settings, run=fail)
    with pytest.raises(NirvanaError, match="the weights are corrupt"):
        run_fake(tmp_path, budget=0.25, stages=(train, broken, show))
    assert (tmp_path / "cut" / "model" / "weights.txt").read_text() == "seed 0, cut 0.5"
    assert run_fake(tmp_path).skipped == ("train", "cut", "show")


def test_a_killed_stage_resumes_where_it_was(tmp_path: Path) -> None:
    process = start_fake("run", tmp_path, 0.05)
    wait_for((tmp_path / ".cut.partial" / "trainer" / "step-3").exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert visible(tmp_path) == {"run.json", "recipe.yaml", "train"}

    said: list[str] = []
    outcome = run_fake(tmp_path, say=said.append)
    assert outcome.skipped == ("train",)
    assert "cut: resumes" in said
    assert 4 <= outcome.results["cut"]["first_step"] <= NUM_STEPS
    assert read_manifest(tmp_path, "cut")["num_attempts"] == 2
    assert leftovers(tmp_path) == set()


def test_a_killed_stage_of_another_recipe_starts_anew(tmp_path: Path) -> None:
    process = start_fake("run", tmp_path, 0.05)
    wait_for((tmp_path / ".cut.partial" / "trainer" / "step-3").exists)
    process.kill()
    process.communicate()
    said: list[str] = []
    outcome = run_fake(tmp_path, budget=0.25, say=said.append)
    assert outcome.skipped == ("train",)
    assert outcome.results["cut"] == {"text": "seed 0, cut 0.25", "first_step": 0}
    told = next(line for line in said if line.startswith("cut: starts anew"))
    assert "another recipe (" in told
    assert "budget: 0.5 -> 0.25" in told


def make_run_with_leftover(out: Path) -> None:
    """Finish a run with budget 0.5, and leave `cut` half done with budget 0.75."""
    run_fake(out)

    def fail(inputs: Any, out_dir: Path) -> dict[str, str]:
        (out_dir / "trainer" / "step-0").mkdir(parents=True)
        for number in range(8):
            (out_dir / f"half-{number}.txt").write_text("half")
        raise NirvanaError("stop")

    train, cut, _ = make_stages()
    half = Stage(name="cut", reads=cut.reads, settings=cut.settings, run=fail, scratch=cut.scratch)
    with pytest.raises(NirvanaError, match="stop"):
        run_fake(out, budget=0.75, stages=(train, half))
    assert leftovers(out) == {".cut.partial"}


@pytest.mark.parametrize("budget", [0.25, 0.5], ids=["same-recipe-again", "old-recipe-again"])
def test_no_moment_of_a_kill_breaks_a_run(budget: float, tmp_path: Path) -> None:
    """Kill a run that replaces `cut` before its 1st, 2nd, 3rd ... change to a file, to its end."""
    make_run_with_leftover(tmp_path / "before")
    process = start_fake("sweep", tmp_path / "before", tmp_path / "r", 0.25, budget)
    rows = json.loads(process.communicate()[0])
    assert [row["code"] for row in rows] == [-signal.SIGKILL] * (len(rows) - 1) + [0]
    assert len(rows) > 40
    # A partial folder of a recipe that is not asked for any more may stay, to be resumed.
    may_stay = {".cut.partial", ".show.partial"} if budget == 0.5 else set()
    for row in rows:
        assert "train" in row["skipped"]
        assert row["cut"] == f"seed 0, cut {budget}"
        assert row["shown"] == f"shown: seed 0, cut {budget}"
        assert set(row["leftovers"]) <= may_stay


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    process = start_fake("run", tmp_path, 0.2)
    wait_for((tmp_path / ".train.partial" / "trainer" / "step-0").exists)
    with pytest.raises(NirvanaError, match=rf"Another run works in .*process {process.pid}\)"):
        run_fake(tmp_path)
    process.kill()
    process.communicate()
    assert run_fake(tmp_path).results["cut"]["text"] == "seed 0, cut 0.5"


def test_an_interrupt_leaves_the_stage_to_resume(tmp_path: Path) -> None:
    def interrupt(inputs: Any, out_dir: Path) -> dict[str, str]:
        (out_dir / "trainer").mkdir()
        (out_dir / "trainer" / "step-0").mkdir()
        raise KeyboardInterrupt

    train, cut, show = make_stages()
    stages = (
        train,
        Stage(
            name="cut", reads=cut.reads, settings=cut.settings, run=interrupt, scratch=cut.scratch
        ),
        show,
    )
    with pytest.raises(KeyboardInterrupt):
        run_fake(tmp_path, stages=stages)
    assert run_fake(tmp_path).results["cut"]["first_step"] == 1


def test_the_report_is_drawn_each_time(tmp_path: Path) -> None:
    from nirvana_deploy.runs.pipeline import run_stages
    from tests.nirvana_deploy.fake_stages import make_recipe

    def write_report(run_dir: Path) -> Path:
        assert (run_dir / "show" / "manifest.json").is_file()
        (run_dir / "report.html").write_text("r")
        return run_dir / "report.html"

    for _ in range(2):
        outcome = run_stages(make_recipe(), tmp_path, make_stages(), lambda _: None, write_report)
        assert outcome.report == tmp_path / "report.html"
        (tmp_path / "report.html").unlink()


def test_nothing_is_deleted_that_is_not_a_stage(tmp_path: Path) -> None:
    run_fake(tmp_path)
    shutil.rmtree(tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "thesis.txt").write_text("years of work")
    with pytest.raises(
        NirvanaError, match=r"cut has no manifest\.json: it is not a finished stage"
    ):
        run_fake(tmp_path)
    assert (tmp_path / "cut" / "thesis.txt").read_text() == "years of work"


def test_a_partial_folder_that_is_not_ours_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / ".train.partial").mkdir(parents=True)
    (tmp_path / ".train.partial" / "thesis.txt").write_text("years of work")
    (tmp_path / "run.json").write_text('{"format": "nirvana-run"}')
    with pytest.raises(
        NirvanaError, match=r"holds files but no readable key\.json: it is not ours"
    ):
        run_fake(tmp_path)
    assert (tmp_path / ".train.partial" / "thesis.txt").exists()
