"""Holds an engine's manifest against this machine, before a byte of the engine is deserialized."""

from __future__ import annotations

from pathlib import Path

from exporters.engines.engine_manifest import EngineManifest
from exporters.engines.local_gpu import LocalGpu
from pruning.errors import NirvanaError


def check_loadable(
    manifest: EngineManifest,
    engine_dir: Path,
    *,
    flavour: str,
    version: str,
    device: LocalGpu | None,
) -> None:
    """Raise NirvanaError unless the engine is for this flavor, version, GPU and driver.

    Call it after `check_engine`. It names all that differs. A driver whose CUDA is not known is
    let through: the flavor's runtime says no by itself.
    """
    result = manifest.result
    if device is None:
        capabilities = ", ".join(list_targets(manifest))
        targets = (
            f"compute capability {capabilities}" if capabilities else "the GPU it was built on"
        )
        raise NirvanaError(
            f"{engine_dir} is a {result.flavour} {result.version} engine for {targets}: to run it, "
            "an NVIDIA GPU with its driver and a torch with CUDA are needed, and there is none "
            "here. Take it to the machine that it is for."
        )
    differences = [
        *_compare_version(manifest, flavour, version),
        *_compare_device(manifest, device),
        *_compare_driver(manifest, device),
    ]
    if differences:
        raise NirvanaError(
            f"{engine_dir} is not for this machine: {'; '.join(differences)}. Build it again here, "
            "or take it to the machine that it is for."
        )


def _compare_version(manifest: EngineManifest, flavour: str, version: str) -> list[str]:
    result = manifest.result
    if result.flavour != flavour:
        return [f"its flavor is {result.flavour}, this is {flavour}"]
    if result.version == version:
        return []
    built, here = _numbers(result.version), _numbers(version)
    if manifest.version_compatible and here >= built and here[:1] == built[:1]:
        return []
    return [f"it was built by {flavour} {result.version}, this is {version}"]


def _compare_device(manifest: EngineManifest, device: LocalGpu) -> list[str]:
    here = f"{device.name} with compute capability {device.compute_capability}"
    targets = list_targets(manifest)
    if manifest.hardware_compatible == "ampere_plus":
        fits = _numbers(device.compute_capability) >= (8, 0)
        return [] if fits else [f"it is for compute capability 8.0 and newer, this GPU is {here}"]
    if targets and device.compute_capability not in targets:
        return [f"it is for compute capability {', '.join(targets)}, this GPU is {here}"]
    built_on = manifest.built_on
    same_kind = manifest.hardware_compatible == "same_compute_capability"
    if manifest.result.compute_capabilities or built_on is None or same_kind:
        return []
    if built_on.name != device.name:
        return [f"it was built on {built_on.name}, this GPU is {here}"]
    return []


def _compare_driver(manifest: EngineManifest, device: LocalGpu) -> list[str]:
    if manifest.cuda is None or device.driver_cuda is None:
        return []
    if _numbers(device.driver_cuda)[0] >= int(manifest.cuda):
        return []
    return [
        f"it needs a driver for CUDA {manifest.cuda}, driver {device.driver} ends at CUDA "
        f"{device.driver_cuda}"
    ]


def list_targets(manifest: EngineManifest) -> tuple[str, ...]:
    """Return the compute capabilities that an engine is for, such as `8.9`."""
    named = tuple(f"{name[2:-1]}.{name[-1]}" for name in manifest.result.compute_capabilities)
    if named or manifest.built_on is None:
        return named
    return (manifest.built_on.compute_capability,)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
