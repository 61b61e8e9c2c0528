"""A built TensorRT engine as Triton serves it: which profile, and what that lets through."""

from __future__ import annotations

import shutil
from pathlib import Path

from exporters.engines.engine_manifest import (
    MANIFEST_NAME,
    EngineManifest,
    check_engine,
    read_engine_manifest,
)
from nirvana_deploy.serving.onnx_signature import OnnxSignature
from nirvana_deploy.serving.package_config import PackageConfig
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError

PLAN_NAME = "model.plan"
# Our engines have one optimisation profile.
PROFILE = 0


def copy_engine(engine_dir: Path, onnx_path: Path, version_dir: Path) -> EngineManifest:
    """Copy an engine that its manifest vouches for, under Triton's name, with the manifest.

    Raises NirvanaError for an engine that was not built from `onnx_path`, and for one of a flavour
    that Triton's backend does not read.
    """
    manifest = check_engine(engine_dir, onnx_path)
    if manifest.result.flavour != "tensorrt":
        raise NirvanaError(
            f"{engine_dir} holds an engine of {manifest.result.flavour}; Triton's TensorRT backend "
            "reads those of the flavour tensorrt alone. Build it with --flavour tensorrt, or "
            "package the ONNX file."
        )
    shutil.copyfile(engine_dir / manifest.result.engine_path, version_dir / PLAN_NAME)
    shutil.copyfile(engine_dir / MANIFEST_NAME, version_dir / MANIFEST_NAME)
    return manifest


def check_profile(
    manifest: EngineManifest, signature: OnnxSignature, config: PackageConfig
) -> None:
    """Raise NirvanaError where the server would let through what the engine cannot take."""
    for name, shapes in manifest.result.optimisation_profile.items():
        lowest, highest = shapes["min"][0], shapes["max"][0]
        if lowest > 1:
            raise NirvanaError(
                f"The engine takes batches of {lowest} or more of {name}, and a request may be one "
                "row. Build it again with a smallest batch of 1."
            )
        if config.max_batch_size > highest:
            raise NirvanaError(
                f"max_batch_size is {config.max_batch_size}, and the engine's profile ends at "
                f"batch {highest} of {name}. Set max_batch_size to {highest}, or build it wider."
            )
    names = {tensor.name for tensor in signature.inputs}
    if names != set(manifest.result.optimisation_profile):
        raise NirvanaError(
            f"The engine's profile has the inputs "
            f"{', '.join(manifest.result.optimisation_profile)}; the graph has "
            f"{', '.join(sorted(names))}. Build the engine again."
        )


def find_best_length(manifest: EngineManifest) -> int:
    """Return the length, in tokens, that the engine was built to be best at."""
    return max(shapes["opt"][1] for shapes in manifest.result.optimisation_profile.values())


def check_version(version_dir: Path) -> None:
    """Raise NirvanaError unless the engine in a version's folder is the one that was built."""
    manifest = read_engine_manifest(version_dir)
    path = version_dir / PLAN_NAME
    if not path.is_file() or hash_file(path) != manifest.engine_sha256:
        raise NirvanaError(
            f"{path} is not the engine that {MANIFEST_NAME} vouches for. Package the model again."
        )
