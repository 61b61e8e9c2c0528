"""Damaged exports and checkpoints are refused by every verb that reads them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.compare.onnx_artefact import open_onnx
from exporters.engines.build_graph import read_build_graph
from exporters.engines.engine_config import EngineConfig
from exporters.graphs.graph_structure import inspect_onnx
from exporters.graphs.load_graph import load_graph
from exporters.graphs.read_onnx import read_onnx
from exporters.inspect_export import inspect_export
from nirvana_deploy.cli import main
from nirvana_deploy.runs.stage_folder import StageFolder
from nirvana_deploy.serving.loaded.open_model import load_export, open_model
from nirvana_deploy.serving.onnx_signature import read_signature
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.text_parts import check_text_files, read_text_parts
from nirvana_deploy.serving.triton.triton_package import package_triton
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.checkpoints.file_hash import hash_file, hash_unchanged
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_classifier import make_classifier, save_checkpoint
from tests.pruning.tiny_models import make_tiny, uneven_plan

READERS: dict[str, Callable[[Path], Any]] = {
    "verify": open_onnx,
    "load_graph": load_graph,
    "surgeon": read_onnx,
    "inspect": inspect_onnx,
    "build": lambda path: read_build_graph(path, EngineConfig()),
    "package and serve": read_signature,
    "profile": lambda path: OnnxRuntimeRunner(path, num_threads=1),
}
_IN_EXPORT = {
    "inspect a folder": lambda path: inspect_export(path.parent),
    "load": lambda path: load_export(path.parent),
    "package": lambda path: package_triton(path, path.parent.parent / "out", PackageConfig()),
}


def write_export(folder: Path, *, external: bool = False) -> Path:
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    model = make_classifier()
    if external:
        onnx.save(
            model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=100
        )
    else:
        onnx.save(model, path)
    hashes = {file.name: hash_file(file) for file in folder.iterdir()}
    told = {
        "task": "text-classification",
        "graphs": {"model": {"file": "model.onnx", "sha256": hashes}},
        "verification": {"passed": True},
        "max_abs_difference": 0.0,
    }
    (folder / "export.json").write_text(json.dumps(told))
    return path


def flip_a_bit(path: Path) -> None:
    """Change a weight, and neither length nor structure nor the time of the last write."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("reader", [*READERS, *_IN_EXPORT])
def test_every_reader_compares_an_export_with_its_hashes(
    tmp_path: Path, reader: str, external: bool
) -> None:
    path = write_export(tmp_path / "export", external=external)
    read = (READERS | _IN_EXPORT)[reader]
    if reader in READERS and reader != "inspect":  # the tiny graph has no attention to describe
        read(path)
    damaged = path.with_name("model.onnx.data") if external else path
    flip_a_bit(damaged)
    with pytest.raises(NirvanaError, match=r"is not the file that export\.json vouches for"):
        read(path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "read",
    [inspect_export, load_export, lambda folder: open_model(str(folder)), read_text_parts],
    ids=["inspect", "load", "evaluate", "package"],
)
def test_config_and_tokenizer_of_an_export_are_compared_with_their_hashes(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    folder = write_export(tmp_path / "export").parent
    texts = save_checkpoint(tmp_path / "checkpoint")
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    for name in names:
        shutil.copy(texts / name, folder)
    config = make_tiny("bert").config.to_dict() | {
        "architectures": ["BertForSequenceClassification"]
    }
    (folder / "config.json").write_text(json.dumps(config))
    told = json.loads((folder / "export.json").read_text())
    told["companions"] = {name: hash_file(folder / name) for name in names}
    (folder / "export.json").write_text(json.dumps(told))
    read(folder)
    for name in names:
        kept = (folder / name).read_bytes()
        flip_a_bit(folder / name)
        with pytest.raises(
            NirvanaError, match=rf"{name} is not the file that export\.json vouches"
        ):
            read(folder)
        (folder / name).write_bytes(kept)
    read(folder)


def test_a_graph_that_the_export_does_not_name_is_read(tmp_path: Path) -> None:
    path = write_export(tmp_path / "export")
    own = path.with_name("cut.onnx")
    shutil.copy(path, own)
    flip_a_bit(path)
    for reader in ("verify", "package and serve", "profile"):
        READERS[reader](own)


@pytest.mark.parametrize("reader", [*READERS, *_IN_EXPORT])
def test_an_export_that_does_not_name_its_data_vouches_for_nothing(
    tmp_path: Path, reader: str
) -> None:
    path = write_export(tmp_path / "export", external=True)
    told = json.loads((path.parent / "export.json").read_text())
    del told["graphs"]["model"]["sha256"]["model.onnx.data"]
    (path.parent / "export.json").write_text(json.dumps(told))
    flip_a_bit(path.with_name("model.onnx.data"))
    message = r"export\.json has no hash of model\.onnx\.data, which holds weights of model\.onnx"
    with pytest.raises(NirvanaError, match=message):
        (READERS | _IN_EXPORT)[reader](path)


@pytest.mark.parametrize("reader", [*READERS, "inspect a folder", "package"])
@pytest.mark.parametrize("kind", ["folder", "dead link"])
def test_an_export_json_that_is_no_file_is_not_taken_for_none(
    tmp_path: Path, reader: str, kind: str
) -> None:
    path = write_export(tmp_path / "export")
    told = path.with_name("export.json")
    told.unlink()
    told.mkdir() if kind == "folder" else told.symlink_to("nowhere")
    with pytest.raises(
        NirvanaError, match=r"export\.json cannot be read: .*Export the model again"
    ):
        (READERS | _IN_EXPORT)[reader](path)


def test_inspect_tells_no_verdict_on_a_damaged_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_export(tmp_path / "export")
    assert main(["inspect", str(path.parent)]) == 0
    assert "passed" in capsys.readouterr().out
    flip_a_bit(path)
    assert main(["inspect", str(path.parent)]) != 0
    captured = capsys.readouterr()
    assert "passed" not in captured.out and "vouches for" in " ".join(captured.err.split())


def set_external(path: Path, **told: str) -> None:
    model = make_classifier()
    table = model.graph.initializer[0]
    size = len(table.raw_data)
    data = path.with_name("w.bin")
    if not data.exists():
        data.write_bytes(table.raw_data)
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "0", "length": str(size), **told}.items():
        table.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("reader", [name for name in READERS if name != "profile"])
@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"offset": str(10**30)}, "It was cut short, or is of another graph"),
        ({"offset": "-5"}, "It was cut short, or is of another graph"),
        ({"offset": "4"}, "It was cut short, or is of another graph"),
        ({"length": "16"}, r"the graph says 16 bytes"),
        ({"length": "many"}, "are not numbers"),
        ({"location": "nothere.bin"}, r"nothere\.bin is missing"),
        ({"location": "../w.bin"}, "outside of the file's folder"),
        ({"location": ""}, "outside of the file's folder"),
    ],
)
def test_external_data_that_does_not_fit_is_refused(
    tmp_path: Path, reader: str, told: dict[str, str], message: str
) -> None:
    path = tmp_path / "model.onnx"
    set_external(path)
    if reader != "inspect":
        READERS[reader](path)
    set_external(path, **told)
    with pytest.raises(NirvanaError, match=message):
        READERS[reader](path)


@pytest.mark.parametrize("reader", [name for name in READERS if name != "profile"])
def test_external_data_that_was_cut_short_is_refused(tmp_path: Path, reader: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"x" * 100)
    set_external(tmp_path / "model.onnx")
    with pytest.raises(NirvanaError, match=r"which has 100 .*It was cut short"):
        READERS[reader](tmp_path / "model.onnx")


def test_data_of_a_constant_beside_the_graph_is_refused(tmp_path: Path) -> None:
    model = make_classifier()
    value = numpy_helper.from_array(np.zeros(4, np.float32), "leak")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="../secret.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["leaked"], name="leak", value=value))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(NirvanaError, match=r"node leak \(Constant\) keeps a value in a file|leak"):
        read_signature(path)


def test_a_hash_is_taken_again_when_anything_about_the_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1000)
    before = hash_unchanged(path)
    assert before == hash_unchanged(path) == hash_file(path)
    flip_a_bit(path)
    assert hash_unchanged(path) == hash_file(path) != before


def test_a_large_file_of_a_stage_that_changed_with_its_time_kept_is_found(tmp_path: Path) -> None:
    folder = StageFolder(run_dir=tmp_path, name="export")
    folder.open_partial("key", {}, "now")
    (folder.partial / "model.onnx").write_bytes(os.urandom(5 << 20))
    manifest = folder.finish({"key": "key"})
    assert folder.find_damage(manifest) is None
    flip_a_bit(folder.final / "model.onnx")
    assert folder.find_damage(manifest) == "model.onnx was changed"


def test_a_whole_stage_of_an_older_version_or_a_copied_one_is_hashed(tmp_path: Path) -> None:
    folder = StageFolder(run_dir=tmp_path, name="export")
    folder.open_partial("key", {}, "now")
    (folder.partial / "model.onnx").write_bytes(os.urandom(5 << 20))
    manifest = folder.finish({"key": "key"})
    for file in manifest["files"].values():
        file["modified_ns"] = file.pop("stat")[2]
    assert folder.find_damage(manifest) is None
    flip_a_bit(folder.final / "model.onnx")
    assert folder.find_damage(manifest) == "model.onnx was changed"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "pruned"
    model = make_tiny("bert")
    save_pruned(repack(model, uneven_plan(model)), folder)
    return folder


def rewrite_files(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name", ["config.json", "plan.json", "model.safetensors", "modeling_pruned.py"]
)
def test_a_checkpoints_manifest_names_what_is_loaded(
    pruned: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "pruned"
    shutil.copytree(pruned, folder)
    load_pruned(folder)
    rewrite_files(folder, lambda files: files.pop(name))
    with pytest.raises(NirvanaError, match=rf"manifest\.json has no hash of {name}, which is"):
        load_pruned(folder)
    rewrite_files(folder, lambda files: files.clear())
    flip_a_bit(folder / "model.safetensors")
    with pytest.raises(NirvanaError, match=r"manifest\.json has no hash of"):
        load_pruned(folder)


def test_what_a_package_takes_from_a_pruned_checkpoint_is_compared(
    pruned: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pruned"
    shutil.copytree(pruned, folder)
    texts = save_checkpoint(tmp_path / "checkpoint")
    shutil.copy(texts / "tokenizer.json", folder)
    rewrite_files(
        folder, lambda files: files.update({"tokenizer.json": hash_file(folder / "tokenizer.json")})
    )
    flip_a_bit(folder / "model.safetensors")  # a package does not read it
    check_text_files(folder)
    flip_a_bit(folder / "tokenizer.json")
    with pytest.raises(NirvanaError, match=r"tokenizer\.json is corrupt"):
        read_text_parts(folder)


def test_a_checkpoints_manifest_stays_in_its_folder(pruned: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    sha256 = hashlib.sha256(b"secret").hexdigest()
    for name in (str(secret), "../secret"):
        folder = tmp_path / f"pruned{len(name)}"
        shutil.copytree(pruned, folder)
        rewrite_files(folder, lambda files, name=name: files.update({name: sha256}))
        with pytest.raises(NirvanaError, match="names a file outside its folder"):
            load_pruned(folder)
    folder = tmp_path / "listless"
    shutil.copytree(pruned, folder)
    (folder / "manifest.json").write_text(json.dumps({"files": ["config.json"]}))
    with pytest.raises(NirvanaError, match=r"manifest\.json.* Copy or write the checkpoint again"):
        load_pruned(folder)
