"""A disk that fills up in the middle of a stage: really full, not simulated."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nirvana_deploy.runs.stage import Stage
from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limits, is_full_disk
from pruning.write_aside import write_new_folder
from tests.nirvana_deploy.fake_stages import make_stages, run_fake


def cut_with_large_file(inputs: Any, out_dir: Path) -> dict[str, str]:
    (out_dir / "model").mkdir()
    (out_dir / "model" / "weights.txt").write_bytes(b"0" * (2 << 20))
    return {"text": "large"}


def with_large_cut() -> tuple[Stage, ...]:
    train, cut, show = make_stages()
    large = Stage(name="cut", reads=cut.reads, settings=cut.settings, run=cut_with_large_file)
    return train, large, show


def test_full_disk_keeps_what_is_finished_and_goes_on_with_room(small_disk: Path) -> None:
    out = small_disk / "r"
    message = (
        r"The disk is full: stage 'cut' could not write in .*\.cut\.partial \(it needs more than "
        r"the \d\.\d MiB written so far, 0\.0 MiB free there\)"
        r"\. Finished stages are kept \(train\)\. Free some space and run the same command again"
    )
    with pytest.raises(NirvanaError, match=message):
        run_fake(out, stages=with_large_cut())
    with pytest.raises(NirvanaError, match="The disk is full"):  # and again, with no room at all
        run_fake(out, stages=with_large_cut())
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    outcome = run_fake(out, stages=with_large_cut())
    assert outcome.skipped == ("train",)
    assert outcome.results["cut"] == {"text": "large"}


def test_full_disk_before_the_first_stage(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(b"0" * (2 << 20))
    with pytest.raises(NirvanaError, match="The disk is full: the run could not write in"):
        run_fake(small_disk / "r")


def test_full_disk_of_a_single_verb_leaves_nothing(small_disk: Path) -> None:
    with (
        pytest.raises(NirvanaError, match="The disk is full: export could not write"),
        write_new_folder(small_disk / "x", "export") as folder,
    ):
        (folder / "model.onnx").write_bytes(b"0" * (2 << 20))
    assert list(small_disk.iterdir()) == []


def test_full_device_everywhere(tmp_path: Path) -> None:
    """The same without root: the kernel's always full device gives the real error."""

    def cut_to_full_device(inputs: Any, out_dir: Path) -> dict[str, str]:
        (out_dir / "weights.txt").symlink_to("/dev/full")
        (out_dir / "weights.txt").write_text("x")
        return {}

    train, cut, show = make_stages()
    full = Stage(name="cut", reads=cut.reads, settings=cut.settings, run=cut_to_full_device)
    with pytest.raises(NirvanaError, match=r"disk is full: stage 'cut'.*kept \(train\).*TMPDIR"):
        run_fake(tmp_path, stages=(train, full, show))
    assert run_fake(tmp_path).skipped == ("train",)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError(
            "[enforce fail at inline_container.cc:672] PytorchStreamWriter failed writing"
        ),
        RuntimeError('SafetensorError: Io(Os { code: 28, message: "No space left on device" })'),
        ValueError("I/O error: os error 28"),
    ],
    ids=["enospc", "quota", "torch", "safetensors", "rust"],
)
def test_full_disk_is_recognised_in_every_library(error: Exception, tmp_path: Path) -> None:
    assert is_full_disk(error, tmp_path)
    wrapped = NirvanaError("the checkpoint cannot be saved")
    wrapped.__cause__ = error
    assert is_full_disk(wrapped, tmp_path)


def test_other_errors_pass_untouched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^not the disk$"), explain_limits("x", tmp_path):
        raise ValueError("not the disk")
