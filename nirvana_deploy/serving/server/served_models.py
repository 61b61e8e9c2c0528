"""What of a package `nirvana serve` puts behind its server: graphs, their limits and hashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nirvana_deploy.serving.onnx_signature import OnnxSignature, read_signature
from nirvana_deploy.serving.package_manifest import check_package
from nirvana_deploy.serving.triton.triton_package import MODEL_NAME, REPOSITORY_NAME, list_versions
from pruning.errors import NirvanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedGraph:
    """One version of a model.

    Attributes:
        max_batch_size: most rows of a request.
    """

    name: str
    version: str
    path: Path
    signature: OnnxSignature
    max_batch_size: int


def list_served_graphs(package: Path) -> tuple[ServedGraph, ...]:
    """Check a Triton package against its manifest and list the ONNX files in it.

    Raises NirvanaError for a folder that is no package, was changed, or holds no ONNX file.
    """
    manifest = check_package(package)
    if manifest.stack != "triton":
        raise NirvanaError(
            f"{package} is a package for {manifest.stack}; `nirvana serve` takes those that "
            "`nirvana package --to triton` makes."
        )
    graphs = [
        ServedGraph(
            name=model_dir.name,
            version=version_dir.name,
            path=version_dir / MODEL_NAME,
            signature=read_signature(version_dir / MODEL_NAME),
            max_batch_size=int(manifest.settings["max_batch_size"]),
        )
        for model_dir in sorted((package / REPOSITORY_NAME).iterdir())
        for version_dir in list_versions(model_dir)
        if (version_dir / MODEL_NAME).is_file()
    ]
    if not graphs:
        raise NirvanaError(
            f"{package} holds no ONNX file. An engine is served by Triton itself; see its README."
        )
    return tuple(graphs)
