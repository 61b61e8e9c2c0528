"""A full disk, a folder that cannot be written and too little memory give the same sentences."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nirvana_deploy.cli import main
from nirvana_deploy.runs.run_folder import claim_run_folder, free_folder
from pruning.cutting.inspection import read_current_plan
from pruning.errors import NirvanaError
from pruning.machine_limits import (
    MachineLimitError,
    OutOfMemoryError,
    explain_limit,
    explain_limits,
    explained,
)
from pruning.write_aside import make_folder_aside, write_aside, write_new_folder
from tests.pruning.tiny_models import make_tiny


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    with pytest.raises(OSError, match="No space"):
        (disk / "filler").write_bytes(bytes(1 << 20))
    with (disk / "filler").open("r+b") as file:
        file.truncate((disk / "filler").stat().st_size - left)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_tiny("bert").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_plan_on_a_full_disk_is_not_left_half_written(
    disk: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = disk / "plan.json"
    fill(disk, 0)
    assert main(["inspect", str(model), "--write_plan", str(plan)]) == 1
    assert "error: The disk is full: inspect could not write" in capsys.readouterr().err
    assert [path.name for path in disk.iterdir()] == ["filler"]
    (disk / "filler").unlink()
    assert main(["inspect", str(model), "--write_plan", str(plan)]) == 0


def test_prune_says_what_it_wrote_and_what_was_free(disk: Path, model: Path) -> None:
    fill(disk, 40 << 10)
    plan = read_current_plan(str(model))
    plan.save(model / "plan.json")
    with (
        pytest.raises(
            NirvanaError, match=r"full: export could not write in .*more than the 0\.\d MiB written"
        ) as raised,
        write_new_folder(disk / "out", "export") as folder,
    ):
        (folder / "x").write_bytes(bytes(1 << 20))
    assert "0.0 MiB free there" in str(raised.value)
    assert "it continues" not in str(raised.value)  # it starts anew
    assert [path.name for path in disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("verb", ["deploy", "export", "prune", "score", "report", "surgeon"])
def test_a_read_only_folder_is_named_by_every_verb(
    verb: str, disk: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    plan = model / "plan.json"
    read_current_plan(str(model)).save(plan)
    out = str(disk / "out")
    command = {
        "deploy": ["--model", str(model), "--out", out],
        "export": [str(model), "--out", out],
        "prune": [str(model), "--plan", str(plan), "--out", out],
        "score": [str(model), "--out", out],
        "report": [str(plan), "--out", f"{out}.html"],
        "surgeon": [str(model / "none.onnx"), str(plan), "--out", out],
    }[verb]
    assert main([verb, *command]) == 1
    told = capsys.readouterr().err
    assert "unexpected" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize("verb", ["profile", "sweep", "evaluate", "certify", "run-engine"])
@pytest.mark.parametrize("place", ["out", "new/folder/out"])
def test_a_folder_that_cannot_be_written_is_named_before_the_work(
    verb: str, place: str, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    others = {
        "profile": ["other"],
        "evaluate": ["--data", "rows.csv"],
        "certify": ["--baseline", "other", "--data", "rows.csv", "--max-flips", "2%"],
    }.get(verb, [])
    out = f"{disk / place}.{'npz' if verb == 'run-engine' else 'json'}"
    assert main([verb, "missing", *others, "--out", out]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"Cannot write in {disk}: Read-only file system. Choose a folder" in told
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert main([verb, "missing", *others, "--out", out]) == 1
    assert "Cannot write" not in capsys.readouterr().err
    assert not list(disk.iterdir())


def test_what_was_refused_in_words_is_no_full_disk(disk: Path) -> None:
    fill(disk, 0)
    with pytest.raises(NirvanaError, match=r"^no such class$"), explain_limits("package", disk):
        raise NirvanaError("no such class")
    with pytest.raises(MachineLimitError, match="full"), explain_limits("package", disk):
        try:
            raise RuntimeError("the writer failed")
        except RuntimeError as error:
            raise NirvanaError("cannot convert it") from error


def test_the_folder_is_named_and_not_the_one_aside(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match="Read-only") as raised, write_aside(disk / "report.html"):
        pass
    assert raised.value.filename == str(disk)


def test_a_read_only_folder_is_told_alike(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    told = r"Cannot write in .*: Read-only file system\. Choose a folder that can be written"
    with pytest.raises(NirvanaError, match=told), write_new_folder(disk / "x", "build"):
        pass
    with (
        pytest.raises(NirvanaError, match=told),
        explain_limits("the run", disk / "x"),
        claim_run_folder(disk / "x"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("place", ["", "checkpoint", "checkpoint/model.safetensors"])
def test_a_closed_folder_is_named_whatever_closes_it(
    number: int, place: str, tmp_path: Path
) -> None:
    told = rf"^Cannot write in {tmp_path}: {os.strerror(number)}\. Choose a folder that can be"
    with pytest.raises(MachineLimitError, match=told), explain_limits("prune", tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / place))


def test_a_closed_file_elsewhere_is_named_itself(tmp_path: Path) -> None:
    with (
        pytest.raises(MachineLimitError, match=f"^{tmp_path}/model cannot be read or written"),
        explain_limits("prune", tmp_path / "out"),
    ):
        raise OSError(errno.EACCES, "Permission denied", str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (MemoryError(), "an unknown amount"),
        (MemoryError("Unable to allocate 1.25 GiB for an array with shape"), "1.25 GiB"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:129] DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 40960000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "40960000 bytes",
        ),
        (
            RuntimeError(
                "unable to mmap 133466304 bytes from file <x>: Cannot allocate memory (12)"
            ),
            "133466304 bytes",
        ),
        (RuntimeError("std::bad_alloc"), "an unknown amount"),
        (
            RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for "
                "requested buffer of size 4194304"
            ),
            "4194304 bytes",
        ),
        (SystemError("error return without exception set"), "an unknown amount"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "an unknown amount"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_memory_that_ran_out_says_how_much_was_asked(error: Exception, amount: str) -> None:
    @explained("export")
    def work() -> None:
        try:
            raise error
        except Exception as caused:
            raise NirvanaError("the model cannot be loaded") from caused

    with pytest.raises(OutOfMemoryError, match="Memory ran out: export asked for") as raised:
        work()
    assert amount in str(raised.value)
    assert "Close other programs or raise the limit, or take a smaller" in str(raised.value)


def test_an_error_that_cannot_be_compared_passes() -> None:
    class OddError(ValueError):
        def __eq__(self, other: object) -> bool:
            raise AttributeError

        __hash__ = None

    try:
        raise OddError
    except OddError as error:
        raised = ValueError("x")
        raised.__cause__ = error
    assert explain_limit(raised, "x") is None


def test_leftovers_of_killed_runs_go_with_the_next_write_of_any_verb(tmp_path: Path) -> None:
    left = [".out.abc_1234.nirvana-partial", ".m.onnx.k3v9x2ab.nirvana-partial"]
    foreign = [".out.partial", "mine.abc_1234.nirvana-partial", ".out.tooshort.partial"]
    for name in (*left, *foreign):
        (tmp_path / name).mkdir()
    (tmp_path / left[0] / "weights").write_text("x")  # the other one is empty
    with make_folder_aside(tmp_path / "other") as alive:
        with write_aside(tmp_path / "plan.json") as aside:
            aside.write_text("{}")
        assert alive.is_dir()  # one that is being written is not taken for a leftover
        with write_aside(alive / "nested.json") as aside:
            aside.write_text("{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*foreign, "plan.json"])


def test_a_failed_prune_leaves_nothing_in_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for folder in (out, tmp_path / "empty"):
        command = ["prune", str(tmp_path / "none"), "--out", str(folder), "--budget", "0.5"]
        assert main(command) == 1
        assert "There is no model folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not list((tmp_path / "empty").iterdir())


def test_a_run_that_was_killed_before_it_did_anything_is_not_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".baseline.partial").mkdir(parents=True)
    (out / ".baseline.partial" / "key.json").write_text("{}")
    for name in (".lock", "recipe.yaml"):
        (out / name).write_text("")
    (out / "run.json").write_text('{"format": "nirvana-run"}')
    refused = pytest.raises(NirvanaError, match="holds something already")
    with claim_run_folder(out), refused:
        free_folder(out)  # a run works there
    free_folder(out)
    with write_new_folder(out, "export") as folder:
        (folder / "x").write_text("x")
    assert [path.name for path in out.iterdir()] == ["x"]
    (out / "run.json").write_text('{"format": "nirvana-run"}')
    refused = pytest.raises(NirvanaError, match="holds something already")
    with refused:
        free_folder(out)
