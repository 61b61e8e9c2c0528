"""Packages an ONNX file as a model repository of NVIDIA Triton, and checks one."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nirvana_deploy.new_folder import refuse_used_folder
from nirvana_deploy.serving.onnx_signature import OnnxSignature, read_signature
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.triton_readme import REQUEST_NAME, format_request, write_readme
from nirvana_deploy.serving.triton_schema import (
    CONFIG_NAME,
    check_config,
    read_config_file,
    write_config,
)
from pruning.errors import NirvanaError

REPOSITORY_NAME = "model_repository"
MODEL_NAME = "model.onnx"
README_NAME = "README.md"
_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageResult:
    """Say what was packaged.

    Attributes:
        folder: the model repository, relative to the package's folder.
        models: names of the models in it.
        files: all files, relative to the package's folder.
    """

    folder: str
    models: tuple[str, ...]
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a stage manifest."""
        return {**asdict(self), "models": list(self.models), "files": list(self.files)}


def package_triton(onnx_path: Path, out_dir: Path, config: PackageConfig) -> PackageResult:
    """Write a model repository, a README and a sample request into `out_dir`, and check them.

    Raises MissingExtraError without tritonclient, NirvanaError when `out_dir` holds something
    already or the ONNX file cannot be served.
    """
    signature = read_signature(onnx_path)
    config_text = write_config(signature, config)
    refuse_used_folder(out_dir)

    model_dir = out_dir / REPOSITORY_NAME / config.model_name
    version_dir = model_dir / _VERSION
    version_dir.mkdir(parents=True)
    _copy_model(onnx_path, signature, version_dir)
    _write_text(model_dir / CONFIG_NAME, config_text)
    _write_text(out_dir / README_NAME, write_readme(signature, config))
    _write_text(out_dir / REQUEST_NAME, format_request(signature) + "\n")
    models = check_triton_repository(out_dir / REPOSITORY_NAME)
    files = sorted(path for path in out_dir.rglob("*") if path.is_file())
    return PackageResult(
        folder=REPOSITORY_NAME,
        models=models,
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
    versions = [path for path in model_dir.iterdir() if path.is_dir() and _is_version(path.name)]
    if not versions:
        raise NirvanaError(
            f"{model_dir} holds no version: expected a folder named by a number, such as "
            f"{_VERSION}."
        )
    for version_dir in versions:
        model_path = version_dir / (message.default_model_filename or MODEL_NAME)
        check_config(config_path, message, read_signature(model_path))


def _is_version(name: str) -> bool:
    """Triton takes no other folders for versions: not 0, no leading zero."""
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _copy_model(onnx_path: Path, signature: OnnxSignature, version_dir: Path) -> None:
    """Copy the graph under Triton's name, its data under the names that the graph gives them."""
    shutil.copyfile(onnx_path, version_dir / MODEL_NAME)
    for name in signature.data_files:
        target = version_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(onnx_path.parent / name, target)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
