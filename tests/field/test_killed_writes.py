"""A process that dies before any of its file operations is in nobody's way, and loses nothing."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporters.surgeon.write_onnx import write_onnx
from nirvana_deploy.runs.run_folder import claim_run_folder
from nirvana_deploy.runs.stage_folder import StageFolder
from pruning.errors import NirvanaError
from pruning.gates.canary import LAST_GOOD_FOLDER, keep_checkpoint
from pruning.write_aside import (
    is_unused,
    move_in_place,
    remove_leftovers,
    write_aside,
    write_json,
    write_new_folder,
)

_OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """Ends a process; no file is changed after it."""


class Killer:
    """Ends the code that runs before its n-th file operation, as SIGKILL does: no clean-up works.

    An audit hook cannot be taken away again, so that there is one, which rests between tests.
    """

    left: float = float("inf")
    hooked = False

    @classmethod
    def watch(cls, event: str, arguments: tuple[object, ...]) -> None:
        flags = arguments[2] if event == "open" else 0
        if event in _OPERATIONS or (isinstance(flags, int) and flags & _WRITES):
            cls.left -= 1
            if cls.left < 0:
                raise Killed

    @classmethod
    def run(cls, work: Callable[[], object], num_operations: float) -> bool:
        """Run `work` for so many file operations at most, and tell whether it was killed."""
        if not cls.hooked:
            sys.addaudithook(cls.watch)
            cls.hooked = True
        before = list_descriptors()
        cls.left = num_operations
        try:
            work()
        except Killed:
            return True
        finally:
            killed, cls.left = cls.left < 0, float("inf")
            for descriptor in list_descriptors() - before:
                os.close(descriptor)  # and with it goes its lock
        return killed


def list_descriptors() -> set[int]:
    """Return the open files of this process, without the one that lists them."""
    return {n for n in (int(path.name) for path in Path("/dev/fd").iterdir()) if is_open(n)}


def is_open(descriptor: int) -> bool:
    try:
        return bool(os.fstat(descriptor))
    except OSError:
        return False


def write_graph(home: Path, *, external: bool) -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    weight = ir.Value(name="w", const_value=ir.tensor(np.ones(2, np.float32), name="w"))
    node = ir.node("Add", [x, weight])
    graph = ir.Graph(
        [x], node.outputs, nodes=[node], initializers=[weight], name="g", opset_imports={"": 18}
    )
    write_onnx(ir.Model(graph, ir_version=10), home / "small.onnx", external=external)


def write_folder(home: Path) -> None:
    with write_new_folder(home / "out", "export") as folder:
        (folder / "graph").write_text("x")


def write_checkpoint(home: Path) -> None:
    with write_new_folder(home / "out", "prune") as folder:
        (folder / "config.json").write_text("x")


def write_budgets(home: Path) -> None:
    for name in ("0.5", "0.3"):
        if not (home / "out" / name).exists():
            with write_new_folder(home / "out" / name, "prune") as folder:
                (folder / "plan.json").write_text(name)


def write_run(home: Path) -> None:
    with claim_run_folder(home / "out") as folder:
        write_json(folder / "recipe.yaml", {})
        stage = StageFolder(run_dir=folder, name="prune", scratch=("trainer",))
        stage.recover()
        if stage.read_manifest() is None:
            stage.open_partial("key", {}, "now")
            (stage.partial / "trainer").mkdir(exist_ok=True)
            (stage.partial / "plan").write_text("x")
            stage.finish({"key": "key", "result": {}})
        write_json(folder / "report.json", {})


WRITERS: dict[str, Callable[[Path], None]] = {
    "graph": lambda home: write_graph(home, external=False),
    "graph and its weights": lambda home: write_graph(home, external=True),
    "folder": write_folder,
    "checkpoint": write_checkpoint,
    "folders in a folder": write_budgets,
    "run": write_run,
}


def list_files(home: Path) -> dict[str, str]:
    """Return the hash of every file but those that hold a time or a process id."""
    return {
        path.relative_to(home).as_posix(): ""
        if path.is_dir() or path.name in (".lock", "run.json", "manifest.json")
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
    }


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_next_run_ends_with_the_same_files_and_no_others(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole")
    whole, num_refused = list_files(tmp_path / "whole"), 0
    for num_operations in range(1000):
        home = tmp_path / f"killed{num_operations}"
        home.mkdir()
        killed = Killer.run(lambda home=home: write(home), num_operations)
        try:
            write(home)
        except NirvanaError as error:
            assert any(text in str(error) for text in ("holds something", "exists", "not empty"))
            num_refused += 1  # its output was whole
        assert list_files(home) == whole, num_operations
        if not killed:
            break
    assert not killed
    assert num_operations > 3
    # An output is there a moment before the process that writes it ends.
    assert num_refused <= 5


def test_the_last_good_checkpoint_is_there_at_any_moment(tmp_path: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    home, killed = tmp_path / LAST_GOOD_FOLDER, True
    for num_operations in range(100):
        keep_checkpoint(tmp_path / "checkpoint-1")
        killed = Killer.run(lambda: keep_checkpoint(tmp_path / "checkpoint-2"), num_operations)
        (kept,) = home.iterdir()
        assert (kept / "weights").read_text() == kept.name, num_operations
        if not killed:
            break
    assert not killed
    assert num_operations > 3
    assert kept.name == "checkpoint-2"
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-1",
        "checkpoint-2",
        LAST_GOOD_FOLDER,
    }


def test_the_folder_of_a_killed_run_is_free_for_another_verb(tmp_path: Path) -> None:
    Killer.run(lambda: write_budgets(tmp_path), 2)
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".nirvana-partial"]
    write_folder(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["graph"]


def test_weights_of_somebody_else_are_not_taken_for_a_killed_run_s(tmp_path: Path) -> None:
    aside = tmp_path / ".small.onnx.k3v9x2ab.nirvana-partial"
    aside.mkdir()
    for name in ("small.onnx.data", "small.onnx"):
        (aside / name).write_text(name)
    Killer.run(lambda: move_in_place(aside, ["small.onnx.data", "small.onnx"]), 2)
    data = tmp_path / "small.onnx.data"
    assert data.read_text() == "small.onnx.data"
    assert (aside / "small.onnx").exists()
    data.unlink()
    data.write_text("years of work")
    with pytest.raises(NirvanaError, match=r"small\.onnx\.data exists already"):
        write_graph(tmp_path, external=True)
    assert data.read_text() == "years of work"
    assert list(tmp_path.iterdir()) == [data]


def test_a_forged_note_deletes_nothing_elsewhere(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    aside = inside / ".a.k3v9x2ab.nirvana-partial"
    aside.mkdir(parents=True)
    (tmp_path / "thesis").write_text("years of work")
    stat = (tmp_path / "thesis").stat()
    same = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
    for note in ({"last": "a", "first": {"../thesis": same}}, {"first": 3}, []):
        aside.mkdir(exist_ok=True)
        (aside / "a").touch()
        with write_aside(aside / "moved.json") as path:
            path.write_text(str(note).replace("'", '"'))
        remove_leftovers(inside)
        assert not aside.exists()
    assert (tmp_path / "thesis").read_text() == "years of work"
    assert is_unused(inside)
