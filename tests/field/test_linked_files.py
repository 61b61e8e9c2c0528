"""The Hugging Face hub's cache links every file of a snapshot into one folder of blobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from exporters.compare.comparison import compare_artefacts
from exporters.compare.onnx_artefact import open_onnx
from exporters.engines.build_graph import convert_types
from exporters.export_config import ExportConfig
from exporters.export_stage import export_checkpoint
from exporters.graphs.graph_structure import inspect_onnx
from exporters.graphs.load_graph import load_graph
from exporters.surgeon.prune_onnx import prune_onnx
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.package_manifest import check_package
from nirvana_deploy.serving.triton.triton_package import package_triton
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.pruning.tiny_models import make_tiny, uneven_plan


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a pruned checkpoint, and an export of the dense one with data beside the graph."""
    folder = tmp_path_factory.mktemp("made")
    model = make_tiny("bert")
    model.save_pretrained(folder / "dense")
    save_pruned(repack(make_tiny("bert"), uneven_plan(model)), folder / "pruned")
    export_checkpoint(folder / "dense", folder / "traced", ExportConfig())
    graph = onnx.load(folder / "traced" / "model.onnx")
    (folder / "export").mkdir()
    shutil.copy(folder / "traced" / "config.json", folder / "export")
    onnx.save(
        graph,
        folder / "export" / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=256,
    )
    return folder / "pruned", folder / "export"


def put_in_cache(source: Path, cache: Path, subfolder: str = "") -> Path:
    """Store a folder as the hub's cache does, and return the snapshot."""
    blobs, snapshot = cache / "models--a--b" / "blobs", cache / "models--a--b" / "snapshots" / "1f"
    place = snapshot / subfolder
    place.mkdir(parents=True)
    blobs.mkdir()
    up = "../" * len(place.relative_to(cache / "models--a--b").parts)
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, blobs / f"blob{number}")
        (place / file.name).symlink_to(f"{up}blobs/blob{number}")
    return place


@pytest.mark.parametrize("subfolder", ["", "onnx"])
def test_a_linked_export_is_read_by_all(
    folders: tuple[Path, Path], tmp_path: Path, subfolder: str
) -> None:
    plain = folders[1] / "model.onnx"
    linked = put_in_cache(folders[1], tmp_path / "hub", subfolder) / "model.onnx"
    assert inspect_onnx(linked) == inspect_onnx(plain)
    assert compare_artefacts(open_onnx(plain), open_onnx(linked)).passed
    assert OnnxRuntimeRunner(linked, num_threads=1).inputs
    half = [convert_types(path, load_graph(path), "fp16") for path in (linked, plain)]
    assert half[0] == half[1] is not None
    package_triton(linked, tmp_path / "package", PackageConfig())
    check_package(tmp_path / "package")
    placed = tmp_path / "package" / "model_repository" / "model" / "1"
    assert not any(path.is_symlink() for path in placed.iterdir())
    assert (placed / "model.onnx_data").read_bytes() == (
        folders[1] / "model.onnx_data"
    ).read_bytes()

    plan = uneven_plan(make_tiny("bert"))
    for path, out in ((plain, "a.onnx"), (linked, "b.onnx")):
        prune_onnx(path, plan, tmp_path / out)
    feeds = {
        node.name: np.ones((2, 7), np.int64)
        for node in onnxruntime.InferenceSession(str(tmp_path / "a.onnx")).get_inputs()
    }
    first, second = (
        onnxruntime.InferenceSession(str(tmp_path / out)).run(None, feeds)[0]
        for out in ("a.onnx", "b.onnx")
    )
    np.testing.assert_array_equal(first, second)


def test_only_the_data_may_be_linked_within_the_cache(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    snapshot = put_in_cache(folders[1], tmp_path / "hub")
    graph = snapshot / "model.onnx"
    content = graph.read_bytes()
    graph.unlink()
    graph.write_bytes(content)
    assert load_graph(graph) == load_graph(folders[1] / "model.onnx")
    data = snapshot / "model.onnx_data"
    data.unlink()
    shutil.copy(folders[1] / "model.onnx_data", tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NirvanaError, match="outside of the file's folder"):
        load_graph(graph)


def test_a_linked_checkpoint_is_loaded_and_exported(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    snapshot = put_in_cache(folders[0], tmp_path / "hub")
    plain, linked = load_pruned(folders[0]), load_pruned(snapshot)
    for (name, one), other in zip(
        plain.state_dict().items(), linked.state_dict().values(), strict=True
    ):
        assert one.equal(other), name
    export_checkpoint(snapshot, tmp_path / "export", ExportConfig())
    assert json.loads((tmp_path / "export" / "export.json").read_text())["graphs"]


def test_a_link_out_of_a_package_stays_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    package_triton(folders[1] / "model.onnx", tmp_path / "package", PackageConfig())
    data = tmp_path / "package" / "model_repository" / "model" / "1" / "model.onnx_data"
    shutil.move(data, tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NirvanaError, match="is a link out of the package"):
        check_package(tmp_path / "package")
