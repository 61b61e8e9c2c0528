"""What of a package `nirvana serve` puts behind its server: graphs, their limits and hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporters.graphs.load_graph import find_id_limits
from nirvana_deploy.certificate import check_packaged
from nirvana_deploy.serving.onnx_signature import OnnxSignature, read_signature
from nirvana_deploy.serving.package_manifest import (
    MANIFEST_NAME,
    PackageManifest,
    check_package,
)
from nirvana_deploy.serving.server.inference_request import NUMPY_TYPES
from nirvana_deploy.serving.text_model_file import (
    LABELS_FILE,
    TEXT_FILE,
    TOKENIZER_FILE,
    ScoreKind,
    read_labels,
    read_text_model,
)
from nirvana_deploy.serving.triton.triton_package import MODEL_NAME, REPOSITORY_NAME, list_versions
from pruning.checkpoints.file_hash import check_inside
from pruning.errors import NirvanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedText:
    """What makes tokens of a text before a graph, and a label of its logits behind it."""

    tokenizer_path: Path
    labels: tuple[str, ...]
    score_kind: ScoreKind
    max_length: int
    pad_id: int
    pad_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedGraph:
    """One version of a model.

    Attributes:
        signature: what a request gives and gets: of a text model, text and label.
        max_batch_size: most rows of a request.
        max_positions: most tokens of a row; None where the package does not say.
        id_limits: for inputs that look rows of a table up, the rows of the table.
        text: what is around the graph, where the model takes text.
    """

    name: str
    version: str
    path: Path
    signature: OnnxSignature
    max_batch_size: int
    text: ServedText | None = None
    max_positions: int | None = None
    id_limits: Mapping[str, int] = field(default_factory=dict)


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
    repository = package / REPOSITORY_NAME
    max_batch_size = _read_count(package, manifest, "max_batch_size")
    max_positions = None
    if manifest.settings.get("max_positions") is not None:
        max_positions = _read_count(package, manifest, "max_positions")
    graphs = [
        ServedGraph(
            name=model_dir.name,
            version=version_dir.name,
            path=version_dir / MODEL_NAME,
            signature=_read_signature(version_dir / MODEL_NAME),
            max_batch_size=max_batch_size,
            max_positions=max_positions,
            id_limits=find_id_limits(version_dir / MODEL_NAME),
        )
        for model_dir in sorted(repository.iterdir())
        for version_dir in list_versions(model_dir)
        if (version_dir / MODEL_NAME).is_file()
    ]
    check_packaged(package)
    if not graphs:
        raise NirvanaError(
            f"{package} holds no ONNX file. An engine is served by Triton itself; see its README."
        )
    texts = (
        _read_text(version_dir, max_batch_size)
        for model_dir in sorted(repository.iterdir())
        for version_dir in list_versions(model_dir)
        if (version_dir / TEXT_FILE).is_file()
    )
    return (*graphs, *texts)


def _read_count(package: Path, manifest: PackageManifest, name: str) -> int:
    value = manifest.settings.get(name)
    if type(value) is not int or value < 1:
        found = f"{name} {value!r}" if name in manifest.settings else f"no {name}"
        raise NirvanaError(
            f"{package / MANIFEST_NAME} has {found} in its settings; expected a number "
            "above 0. Package the model again."
        )
    return value


def _read_signature(path: Path) -> OnnxSignature:
    signature = read_signature(path)
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.wire_type not in (*NUMPY_TYPES, "BYTES"):
            raise NirvanaError(
                f"{path}: {tensor.name} is of type {tensor.wire_type}, which this server does not "
                f"send. Expected one of {', '.join(NUMPY_TYPES)}: export the model with such "
                "inputs and outputs, or serve the package by Triton."
            )
    return signature


def _read_text(version_dir: Path, max_batch_size: int) -> ServedGraph:
    """Put a text model together; it runs its classifier's newest version, as Triton's does."""
    parts = read_text_model(version_dir)
    repository = version_dir.parent.parent
    for name in (parts.tokenizer, parts.classifier, parts.labels):
        if not (repository / check_inside(name, repository)).is_dir():
            raise NirvanaError(
                f"{version_dir / TEXT_FILE} names the model {name}, which {repository} does not "
                "hold. Package the model again."
            )
    return ServedGraph(
        name=version_dir.parent.name,
        version=version_dir.name,
        path=list_versions(repository / parts.classifier)[-1] / MODEL_NAME,
        signature=parts.signature,
        max_batch_size=max_batch_size,
        text=ServedText(
            tokenizer_path=repository / parts.tokenizer / "1" / TOKENIZER_FILE,
            labels=read_labels(repository / parts.labels / "1" / LABELS_FILE, parts),
            score_kind=parts.score_kind,
            max_length=parts.max_length,
            pad_id=parts.pad_id,
            pad_token=parts.pad_token,
        ),
    )
