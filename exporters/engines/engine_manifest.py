"""The file beside an engine that says what it was built from, and vouches for it by hash.

Deserializing an engine runs code that it carries: call `check_engine` before anything loads one.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from exporters.engines.engine_config import FLAVOURS
from exporters.engines.engine_profiles import Profile
from exporters.engines.local_gpu import LocalGpu
from pruning.checkpoints.file_hash import check_inside, hash_file
from pruning.errors import NirvanaError
from pruning.strict_json import convert_json, read_object

MANIFEST_NAME = "engine.json"
ENGINE_NAME = "model.engine"
LOG_NAME = "build.log"
MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    """What a build gave. Paths are relative to the engine's folder.

    Attributes:
        precision_found: layers by the widest floating type that they write (see `engine_audit`).
        num_fused_attentions: None when the build log could not be read; `warnings` says so. With
            several profiles, those of the one that has the fewest.
        optimisation_profile: the first: by input name, then `min`, `opt`, `max`: a shape.
        further_profiles: the others, in the engine's order; `profile_names` has a name for each.
        unfused_attentions: the nodes of the graph that run as separate kernels.
        kernels_by_block: of the first profile (see `engine_audit`).
        warnings: what was asked and is not in the engine.
    """

    flavour: str
    version: str
    precision_asked: str
    precision_found: dict[str, int]
    compute_capabilities: tuple[str, ...]
    num_attention_layers: int
    num_fused_attentions: int | None
    engine_path: str
    engine_size_bytes: int
    build_seconds: float
    onnx_sha256: str
    optimisation_profile: Profile
    warnings: tuple[str, ...]
    log_path: str = LOG_NAME
    status: str = "built"
    profile_names: tuple[str, ...] = ("default",)
    further_profiles: tuple[Profile, ...] = ()
    unfused_attentions: tuple[str, ...] = ()
    kernels_by_block: dict[str, int] = field(default_factory=dict)

    @property
    def optimisation_profiles(self) -> tuple[Profile, ...]:
        """All optimization profiles, in the engine's order."""
        return (self.optimisation_profile, *self.further_profiles)

    def to_json(self) -> dict[str, object]:
        """Return plain data for a stage manifest."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """What vouches for an engine folder.

    Attributes:
        onnx_data_sha256: by file name, the external data of the ONNX file.
        versions: of the libraries that took part.
        structure_sha256: of the graph without its weights; another one cannot be refitted from.
        built_on: None where no GPU was at hand.
        cuda: the CUDA that the flavor is built for, such as `13`; None where nothing tells it.
        timing_cache: the name of the file of timings that were used.
        refitted_from: SHA-256 of the engine whose weights were replaced.
    """

    result: EngineResult
    engine_sha256: str
    onnx_name: str
    onnx_data_sha256: dict[str, str]
    versions: dict[str, str]
    structure_sha256: str | None = None
    built_on: LocalGpu | None = None
    cuda: str | None = None
    version_compatible: bool = False
    hardware_compatible: str = "none"
    refittable: bool = False
    weight_streaming: bool = False
    timing_cache: str | None = None
    refitted_from: str | None = None

    def write(self, engine_dir: Path) -> None:
        """Write the manifest into the engine's folder."""
        document = {"manifest_version": MANIFEST_VERSION, **asdict(self)}
        text = json.dumps(document, indent=2) + "\n"
        (engine_dir / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_engine_manifest(engine_dir: Path) -> EngineManifest:
    """Read the manifest of an engine folder, and none of its files: see `check_engine`."""
    path = engine_dir / MANIFEST_NAME
    if engine_dir.is_file():
        raise NirvanaError(
            f"{engine_dir} is a file. Loading an engine runs what is in it, so that only one is "
            f"loaded whose {MANIFEST_NAME} vouches for it: give the folder of `nirvana build`, or "
            "build the ONNX file again."
        )
    if not path.is_file():
        raise NirvanaError(f"{path} is missing: {engine_dir} is not the folder of a built engine.")
    remedy = "Build the engine again."
    document = read_object(path, remedy=remedy)
    version = document.pop("manifest_version", None)
    if version != MANIFEST_VERSION:  # its fields are others, as a rule
        raise NirvanaError(
            f"{path} has manifest version {version!r}, this package reads {MANIFEST_VERSION}. "
            "Build the engine again."
        )
    manifest = convert_json(document, EngineManifest, name=str(path), remedy=remedy, exact=True)
    if (wrong := _find_wrong(manifest)) is not None:
        raise NirvanaError(
            f"{path} is not a readable engine manifest: {wrong}, which no build writes. Build the "
            "engine again."
        )
    return manifest


def _find_wrong(manifest: EngineManifest) -> str | None:
    """Return what in a manifest cannot be from a build: a flavor, a GPU, a path."""
    result = manifest.result
    if result.flavour not in FLAVOURS[1:]:  # a module of this name would be imported
        return f"result.flavour is {result.flavour!r}"
    for name in result.compute_capabilities:
        if not re.fullmatch(r"sm\d{2,3}", name):
            return f"result.compute_capabilities has {name!r}"
    return None


def check_engine(engine_dir: Path, onnx_path: Path | None = None) -> EngineManifest:
    """Return the manifest when the engine file is the one it vouches for, else raise NirvanaError.

    With `onnx_path`, the graph there (external data included) must be the one that was built.
    """
    manifest = read_engine_manifest(engine_dir)
    name = manifest.result.engine_path
    for path in (name, manifest.result.log_path):
        if not path or Path(check_inside(path, engine_dir)).name != path:
            raise NirvanaError(
                f"{engine_dir / MANIFEST_NAME} names a file outside its folder: {path or '(none)'}."
            )
    _check_hash(engine_dir / name, manifest.engine_sha256, "Build the engine again.")
    if onnx_path is not None:
        remedy = "The engine was built from another graph; build it again."
        _check_hash(onnx_path, manifest.result.onnx_sha256, remedy)
        for data_name, sha256 in manifest.onnx_data_sha256.items():
            data = onnx_path.parent / check_inside(data_name, engine_dir)
            _check_hash(data, sha256, remedy)
    return manifest


def _check_hash(path: Path, expected: str, remedy: str) -> None:
    if not path.is_file():
        raise NirvanaError(f"{path} is missing. {remedy}")
    found = hash_file(path)
    if found != expected:
        raise NirvanaError(
            f"{path} has SHA-256 {found[:12]}..., the engine's manifest says {expected[:12]}... . "
            f"{remedy}"
        )
