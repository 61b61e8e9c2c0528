"""Packages a model as a model repository of NVIDIA Triton, and checks one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporters.engines.engine_profiles import find_max_length
from exporters.graphs.onnx_files import check_hashes
from nirvana_deploy.certificate import carry_certificate
from nirvana_deploy.serving.onnx_signature import read_signature
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.package_manifest import PackageResult, write_manifest
from nirvana_deploy.serving.scale_out.scale_out_files import (
    write_manifests,
    write_ray_app,
    write_rollout,
)
from nirvana_deploy.serving.text_parts import read_text_parts
from nirvana_deploy.serving.triton import triton_engine
from nirvana_deploy.serving.triton.placed_models import PlacedModel, arrange_models
from nirvana_deploy.serving.triton.triton_pipeline import write_pipeline
from nirvana_deploy.serving.triton.triton_readme import REQUEST_NAME, format_request, write_readme
from nirvana_deploy.serving.triton.triton_schema import (
    CONFIG_NAME,
    MODEL_FILES,
    ServedModel,
    check_config,
    load_schema,
    read_backend,
    read_config_file,
    write_config,
)
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError
from pruning.write_aside import refuse_used_folder

REPOSITORY_NAME = "model_repository"
MODEL_NAME = "model.onnx"
README_NAME = "README.md"
MODELS_DIR = Path(__file__).parent / "models"
_VERSION = "1"


def package_triton(
    sources: OnnxSources | Path, out_dir: Path, config: PackageConfig
) -> PackageResult:
    """Write a model repository, a README and a sample request into `out_dir`, and check them.

    Raises MissingExtraError without tritonclient, NirvanaError when `out_dir` holds something
    already or the model cannot be served.
    """
    if isinstance(sources, Path):
        sources = OnnxSources(onnx=sources)
    load_schema()
    models = arrange_models(sources, config)
    for graph in sources.graphs:
        check_hashes(graph, fresh=True)
    signature = models[-1].signature
    if config.ray and sources.engine is not None:
        raise NirvanaError("ray_app.py serves ONNX, not engines: leave out ray, or the engine.")
    if config.profiles and sources.engine is None:
        raise NirvanaError("profiles are those of an engine: give --engine, or leave them out.")
    parts = None
    lengths = [find_max_length(graph) for graph in sources.graphs]
    max_positions = min((length for length in lengths if length is not None), default=None)
    if sources.checkpoint is not None:
        parts = read_text_parts(sources.checkpoint, max_positions)
    refuse_used_folder(out_dir)

    repository = out_dir / REPOSITORY_NAME
    for model in models:
        _write_model(repository / model.name, model, sources, config)
    if parts is not None:
        write_pipeline(repository, parts, signature, config)
    if config.ab:
        write_rollout(out_dir, signature)
    if config.ray:
        write_ray_app(out_dir)
    if config.kubernetes:
        write_manifests(out_dir, config, sources, models)
    _write_text(out_dir / README_NAME, write_readme(models, config, sources))
    _write_text(out_dir / REQUEST_NAME, format_request(signature) + "\n")
    names = check_triton_repository(repository)
    if sources.engine is None:
        carry_certificate(sources.onnx, out_dir)
    write_manifest(out_dir, config, ("tritonclient", "onnx"), max_positions=max_positions)
    files = sorted(path for path in out_dir.rglob("*") if path.is_file())
    return PackageResult(
        folder=REPOSITORY_NAME,
        models=names,
        files=tuple(path.relative_to(out_dir).as_posix() for path in files),
    )


def check_triton_repository(repository: Path) -> tuple[str, ...]:
    """Hold every model's configuration against its ONNX files, and return the models' names.

    Raises NirvanaError at the first thing that a server would refuse or serve wrongly: a typo, a
    missing file or version, tensors that are not those of the graph.
    """
    if not repository.is_dir():
        raise NirvanaError(f"{repository} is missing: expected the folder of a model repository.")
    model_dirs = sorted(path for path in repository.iterdir() if path.is_dir())
    if not model_dirs:
        raise NirvanaError(f"{repository} holds no model: expected a folder for each.")
    for model_dir in model_dirs:
        _check_model(model_dir)
    return tuple(model_dir.name for model_dir in model_dirs)


def _check_model(model_dir: Path) -> None:
    config_path = model_dir / CONFIG_NAME
    message = read_config_file(config_path)
    versions = list_versions(model_dir)
    if not versions:
        raise NirvanaError(
            f"{model_dir} holds no version: expected a folder named by a number, such as "
            f"{_VERSION}."
        )
    if message.platform == "ensemble" or not _serves_graph(message):
        return
    for version_dir in versions:
        backend = read_backend(message)
        if backend == "tensorrt":
            triton_engine.check_version(version_dir)
            continue
        name = MODEL_NAME if backend == "python" else message.default_model_filename
        check_config(config_path, message, read_signature(version_dir / (name or MODEL_NAME)))


def _serves_graph(message: Any) -> bool:
    """Tell a model from the parts before and behind it, which vouch for no graph."""
    hashes = any(name.startswith("sha256:") for name in message.parameters)
    return read_backend(message) != "python" or hashes


def list_versions(model_dir: Path) -> list[Path]:
    """Return the folders of a model that Triton takes for versions, oldest first."""
    folders = [path for path in model_dir.iterdir() if path.is_dir() and _is_version(path.name)]
    return sorted(folders, key=lambda path: int(path.name))


def _is_version(name: str) -> bool:
    """Triton takes no other folders for versions: not 0, no leading zero."""
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _write_model(
    model_dir: Path, placed: PlacedModel, sources: OnnxSources, config: PackageConfig
) -> None:
    model = ServedModel(name=model_dir.name, backend=config.backend)
    if sources.engine is not None:
        version_dir = _make_version(model_dir, 1)
        manifest = triton_engine.copy_engine(sources.engine, sources.onnx, version_dir)
        profiles = triton_engine.choose_profiles(manifest, placed.signature, config)
        model = replace(
            model,
            backend="tensorrt",
            profiles=profiles,
            warm_up_length=triton_engine.find_best_length(manifest, profiles[0]),
        )
    else:
        for number, graph in enumerate(placed.graphs, start=1):
            copy_graph(graph, _make_version(model_dir, number))
        model = replace(model, num_versions=len(placed.graphs))
    if model.backend == "python":
        model = replace(model, hashes=_hash_versions(model_dir))
        for version_dir in list_versions(model_dir):
            copy_python_model(version_dir)
    _write_text(model_dir / CONFIG_NAME, write_config(placed.signature, model, config))


def _make_version(model_dir: Path, number: int) -> Path:
    version_dir = model_dir / str(number)
    version_dir.mkdir(parents=True)
    return version_dir


def _hash_versions(model_dir: Path) -> dict[str, str]:
    files = sorted(path for path in model_dir.rglob("*") if path.is_file())
    return {path.relative_to(model_dir).as_posix(): hash_file(path) for path in files}


def copy_python_model(version_dir: Path) -> None:
    """Put the code beside a graph that serves it in the Python backend."""
    shutil.copyfile(MODELS_DIR / "serve_onnx.py", version_dir / MODEL_FILES["python"])


def copy_graph(onnx_path: Path, version_dir: Path) -> None:
    """Copy the graph under Triton's name, its data under the names that the graph gives them."""
    shutil.copyfile(onnx_path, version_dir / MODEL_NAME)
    for name in read_signature(onnx_path).data_files:
        target = version_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(onnx_path.parent / name, target)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
