"""A built TensorRT engine as Triton serves it: which profiles, and what these let through."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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


def copy_engine(engine_dir: Path, onnx_path: Path, version_dir: Path) -> EngineManifest:
    """Copy an engine that its manifest vouches for, under Triton's name, with the manifest.

    Raises NirvanaError for an engine that was not built from `onnx_path`, and for one of a flavor
    that Triton's backend does not read.
    """
    manifest = check_engine(engine_dir, onnx_path)
    if manifest.result.flavour != "tensorrt":
        raise NirvanaError(
            f"{engine_dir} holds an engine of {manifest.result.flavour}; Triton's TensorRT backend "
            "reads those of the flavor tensorrt alone. Build it with --flavour tensorrt, or "
            "package the ONNX file."
        )
    shutil.copyfile(engine_dir / manifest.result.engine_path, version_dir / PLAN_NAME)
    shutil.copyfile(engine_dir / MANIFEST_NAME, version_dir / MANIFEST_NAME)
    return manifest


def choose_profiles(
    manifest: EngineManifest, signature: OnnxSignature, config: PackageConfig
) -> tuple[int, ...]:
    """Return the indices of the optimization profiles that are served, by default all.

    Triton runs each batch by the one whose best shape is nearest.

    Raises NirvanaError for a profile that the engine does not have, and where the server would let
    through what none of them can take.
    """
    profiles = manifest.result.optimisation_profiles
    if unknown := [number for number in config.profiles if number >= len(profiles)]:
        raise NirvanaError(
            f"The engine has no optimization profile {unknown[0]}; it has "
            f"{', '.join(map(str, range(len(profiles))))}. Choose among these, or leave profiles "
            "out to serve them all."
        )
    chosen = config.profiles or tuple(range(len(profiles)))
    names = [tensor.name for tensor in signature.inputs]
    for number in chosen:
        if sorted(names) != sorted(profiles[number]):
            raise NirvanaError(
                f"The engine's profile {number} has the inputs {', '.join(profiles[number])}; the "
                f"graph has {', '.join(names)}. Build the engine again."
            )
    for name in names:
        ranges = [(profiles[n][name]["min"][0], profiles[n][name]["max"][0]) for n in chosen]
        _check_batches(name, ranges, config.max_batch_size)
    return chosen


def _check_batches(name: str, ranges: Sequence[tuple[int, int]], max_batch_size: int) -> None:
    """Raise NirvanaError unless every batch from 1 to the largest is in one of the ranges."""
    reached = 0
    for lowest, highest in sorted(ranges):
        if lowest > reached + 1:
            break
        reached = max(reached, highest)
    if reached == 0:
        raise NirvanaError(
            f"The engine takes batches of {min(ranges)[0]} or more of {name}, and a request may be "
            "one row. Build it again with a smallest batch of 1."
        )
    if max_batch_size > reached:
        raise NirvanaError(
            f"max_batch_size is {max_batch_size}, and the engine's profiles end at batch {reached} "
            f"of {name}. Set max_batch_size to {reached}, or build it wider."
        )


def find_best_length(manifest: EngineManifest, number: int = 0) -> int:
    """Return the length, in tokens, that a profile was built to be best at."""
    profile = manifest.result.optimisation_profiles[number]
    named = {"input_ids": profile["input_ids"]} if "input_ids" in profile else profile
    return max(shapes["opt"][1] for shapes in named.values())


def check_version(version_dir: Path) -> None:
    """Raise NirvanaError unless the engine in a version's folder is the one that was built."""
    manifest = read_engine_manifest(version_dir)
    path = version_dir / PLAN_NAME
    if not path.is_file() or hash_file(path) != manifest.engine_sha256:
        raise NirvanaError(
            f"{path} is not the engine that {MANIFEST_NAME} vouches for. Package the model again."
        )
