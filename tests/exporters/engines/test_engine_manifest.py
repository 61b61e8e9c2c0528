import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from exporters.engines.engine_manifest import (
    check_engine,
    read_engine_manifest,
)
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_folders import L4, write_engine

ENGINE, GRAPH, DATA = b"plan", b"graph", b"weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an engine, its manifest, and the graph it was built from."""
    for name, content in (("model.onnx", GRAPH), ("w.data", DATA)):
        (tmp_path / name).write_bytes(content)
    write_engine(
        tmp_path,
        engine=ENGINE,
        graph=GRAPH,
        version="1.7",
        precision_asked="fp16",
        precision_found={"fp16": 3},
        onnx_data_sha256={"w.data": sha256(DATA)},
    )
    return tmp_path


def edit(folder: Path, change: Any) -> None:
    path = folder / "engine.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = read_engine_manifest(folder)
    assert manifest.result.warnings == ("one is not fused",)
    assert manifest.result.optimisation_profile["x"]["max"] == [3]
    manifest.write(folder)
    assert read_engine_manifest(folder) == manifest


def test_a_sound_folder_passes(folder: Path) -> None:
    assert check_engine(folder, folder / "model.onnx") == read_engine_manifest(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.engine", r"model\.engine has SHA-256 .* manifest says .*Build the engine again"),
        ("model.onnx", r"model\.onnx has SHA-256 .*built from another graph"),
        ("w.data", r"w\.data has SHA-256 .*built from another graph"),
    ],
)
def test_a_changed_file_is_refused(folder: Path, name: str, message: str) -> None:
    (folder / name).write_bytes(b"changed")
    with pytest.raises(NirvanaError, match=message):
        check_engine(folder, folder / "model.onnx")


def test_a_missing_engine_is_refused(folder: Path) -> None:
    (folder / "model.engine").unlink()
    with pytest.raises(NirvanaError, match=r"model\.engine is missing\. Build the engine again"):
        check_engine(folder)


def test_an_engine_outside_the_folder_is_refused(folder: Path) -> None:
    edit(folder, lambda document: document["result"].update(engine_path="../model.engine"))
    with pytest.raises(NirvanaError, match=r"outside its folder: \.\./model\.engine"):
        check_engine(folder)
    edit(folder, lambda document: document["result"].update(engine_path=""))
    with pytest.raises(NirvanaError, match=r"outside its folder: \(none\)"):
        check_engine(folder)
    edit(folder, lambda d: d["result"].update(engine_path="model.engine", log_path="/etc/hosts"))
    with pytest.raises(NirvanaError, match=r"outside its folder: /etc/hosts"):
        check_engine(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flavour", "os", r"result\.flavour is 'os', which no build writes"),
        ("flavour", 5, r"result\.flavour: expected text, got 5"),
        ("compute_capabilities", ["8.9"], r"result\.compute_capabilities has '8\.9'"),
        ("compute_capabilities", [89], r"result\.compute_capabilities\[0\]: expected text, got 89"),
        ("engine_path", 5, r"result\.engine_path: expected text, got 5"),
        (
            "optimisation_profile",
            {"x": {"min": ["1"]}},
            r"result\.optimisation_profile\.x\.min\[0\]: expected a whole number",
        ),
    ],
)
def test_what_no_build_writes_is_refused(
    folder: Path, field: str, value: object, message: str
) -> None:
    edit(folder, lambda document: document["result"].update({field: value}))
    with pytest.raises(NirvanaError, match=message):
        check_engine(folder)


def test_a_folder_without_manifest_is_not_an_engine(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"engine\.json is missing.*not the folder of a built"):
        read_engine_manifest(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"manifest_version": 1, "result": {}}'])
def test_an_unreadable_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "engine.json").write_text(text, encoding="utf-8")
    with pytest.raises(
        NirvanaError, match=r"engine\.json (cannot be read|has manifest version None)"
    ):
        read_engine_manifest(folder)


def test_another_manifest_version_is_refused(folder: Path) -> None:
    edit(folder, lambda document: document.update(manifest_version=2, new_field="of that version"))
    with pytest.raises(NirvanaError, match="manifest version 2, this package reads 1"):
        read_engine_manifest(folder)


def test_a_raw_engine_file_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(ENGINE)
    with pytest.raises(NirvanaError, match=r"model\.plan is a file\. Loading an engine runs what"):
        read_engine_manifest(tmp_path / "model.plan")


def test_all_profiles_and_the_gpu_come_back(tmp_path: Path) -> None:
    decode = {"x": {"min": [1], "opt": [1], "max": [1]}}
    written = write_engine(
        tmp_path,
        profile_names=("prefill", "decode"),
        further_profiles=(decode,),
        unfused_attentions=("softmax (profile decode)",),
        kernels_by_block={"layer.0": 9},
        built_on=L4,
        cuda="13",
        timing_cache="t.timing",
    )
    assert read_engine_manifest(tmp_path) == written
    assert written.result.optimisation_profiles[1] == decode
    assert written.result.to_json()["profile_names"] == ["prefill", "decode"]


def test_a_manifest_of_an_older_build_is_read(folder: Path) -> None:
    def strip(document: dict[str, Any]) -> None:
        for name in ("structure_sha256", "built_on", "cuda", "refittable", "hardware_compatible"):
            del document[name]
        for name in ("profile_names", "further_profiles", "kernels_by_block"):
            del document["result"][name]

    edit(folder, strip)
    manifest = check_engine(folder)
    assert (manifest.built_on, manifest.refittable) == (None, False)
    assert manifest.result.profile_names == ("default",)
