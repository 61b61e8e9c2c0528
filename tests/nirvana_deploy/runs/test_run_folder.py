"""Claiming an output folder: ours, empty or new; never someone else's."""

import json
import os
from pathlib import Path

import pytest

from nirvana_deploy.runs.run_folder import claim_run_folder
from pruning.errors import NirvanaError
from pruning.write_aside import write_new_folder


def test_a_new_folder_is_claimed_and_claimed_again(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with claim_run_folder(out):
        assert json.loads((out / "run.json").read_text())["format"] == "nirvana-run"
    created = (out / "run.json").read_text()
    with claim_run_folder(out):
        assert (out / "run.json").read_text() == created


def test_an_empty_folder_is_claimed(tmp_path: Path) -> None:
    with claim_run_folder(tmp_path):
        assert (tmp_path / "run.json").is_file()


def test_a_claim_that_was_cut_is_claimed_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json.k3v9x2ab.nirvana-partial").mkdir()
    (tmp_path / ".run.json.k3v9x2ab.nirvana-partial" / "run.json").write_text("{")
    with claim_run_folder(tmp_path):
        assert (tmp_path / "run.json").is_file()


def test_a_folder_with_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(NirvanaError, match=r"holds something else \(thesis\.txt\) and no run\.json"),
        claim_run_folder(tmp_path),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["{}", '{"format": "other"}', "{", "[]"])
def test_a_run_json_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with (
        pytest.raises(NirvanaError, match="was not written by a nirvana run"),
        claim_run_folder(tmp_path),
    ):
        pass
    assert (tmp_path / "run.json").read_text() == text


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_a_file_in_the_way_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(NirvanaError, match=r"Cannot write in .*/file is a file\. Choose a folder"),
        claim_run_folder(tmp_path / below),
    ):
        pass
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(NirvanaError, match="Cannot write in"),
        claim_run_folder(tmp_path / "x"),
    ):
        pass


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with write_new_folder(out, "export") as folder:
        (folder / "x").write_text("1")
        assert not out.exists()
    assert (out / "x").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["b"]


def test_a_link_to_an_empty_folder_gets_the_files(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with write_new_folder(tmp_path / "link", "export") as folder:
        (folder / "x").write_text("1")
    assert (tmp_path / "real/x").read_text() == "1"
    assert (tmp_path / "link").is_symlink()


def test_a_new_folder_does_not_appear_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match="no"), write_new_folder(tmp_path / "b", "export"):
        raise NirvanaError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    with (
        pytest.raises(NirvanaError, match=r"holds something already\. Choose a new or empty"),
        write_new_folder(tmp_path, "export"),
    ):
        pass
    assert (tmp_path / "x").read_text() == "1"
