"""Fingerprints: of content where it is local, of the commit where it is the hub's."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from nirvana_deploy.fingerprints import (
    find_versions,
    fingerprint_dataset,
    fingerprint_model,
    hash_path,
)
from pruning.errors import NirvanaError


def make_model(folder: Path, weights: str = "w") -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return str(folder)


def test_a_local_model_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    first = fingerprint_model(make_model(tmp_path / "a"))
    assert first.startswith("sha256:")
    assert fingerprint_model(make_model(tmp_path / "b")) == first
    assert fingerprint_model(make_model(tmp_path / "c", "other")) != first


def test_names_of_files_count(tmp_path: Path) -> None:
    for folder, name in (("a", "x"), ("b", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("same")
    assert hash_path(tmp_path / "a") != hash_path(tmp_path / "b")


def test_a_hub_model_is_the_commit_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = "/cache/models--o--n/snapshots/0123abcd/config.json"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
    assert fingerprint_model("o/n") == "hub:o/n@0123abcd"


def test_a_hub_model_is_asked_for_when_it_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    api = SimpleNamespace(model_info=lambda name, timeout: SimpleNamespace(sha="0123abcd"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert fingerprint_model("o/n") == "hub:o/n@0123abcd"


def test_a_hub_model_out_of_reach_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, timeout: float) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=refuse))
    with pytest.raises(
        NirvanaError, match=r"'o/n' is not a local folder, not in the .*cache.*pypi"
    ):
        fingerprint_model("o/n")


def test_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("a\n")
    first = fingerprint_dataset(str(path))
    path.write_text("b\n")
    assert fingerprint_dataset(str(path)) != first
    assert fingerprint_dataset("debian-sections").startswith("sha256:")
    assert fingerprint_dataset("owner/data") == "hub:owner/data"


def test_versions_of_what_is_not_installed_are_none() -> None:
    versions = find_versions(["pytest", "no-such-package-x"])
    assert versions == {"pytest": pytest.__version__, "no-such-package-x": None}
