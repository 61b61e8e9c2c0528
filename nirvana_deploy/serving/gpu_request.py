"""Which GPUs a package's manifests ask Kubernetes for."""

from __future__ import annotations

from typing import Any

from exporters.engines.check_loadable import list_targets
from exporters.engines.engine_manifest import read_engine_manifest
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.package_sources import Sources
from profiles.targets.target import Target, list_target_names, load_target
from pruning.errors import NirvanaError

# What a driver reports is a little less than what is sold: in MiB, of a GB.
_REPORTED_MIB_PER_GB = 900


def asks_for_gpu(config: PackageConfig, sources: Sources) -> bool:
    """Return whether a pod needs a GPU: for an engine, by the instances' kind, or by a target."""
    wanted = config.instance_kind == "gpu" or bool(config.target)
    return sources.engine is not None or wanted


def affinity_of(config: PackageConfig, sources: Sources) -> dict[str, Any]:
    """Return `affinity` of a pod for nodes whose GPU the model runs on; nothing for any node.

    By the labels of NVIDIA's GPU feature discovery: compute capability, and memory of a target.

    Raises NirvanaError for a target that is no GPU, that instances on the CPU do not use, or that
    the engine was not built for.
    """
    target = None if not config.target else _find_target(config)
    capabilities = () if sources.engine is None else _read_capabilities(sources)
    if target is not None:
        if capabilities and target.compute_capability not in capabilities:
            raise NirvanaError(
                f"The engine was built for compute capability {', '.join(capabilities)}, and "
                f"target {config.target} has {target.compute_capability}. Build it for this target."
            )
        capabilities = (str(target.compute_capability),)
    if not capabilities:
        return {}
    terms = [{"matchExpressions": _match(each, target)} for each in capabilities]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"affinity": {"nodeAffinity": required}}


def _find_target(config: PackageConfig) -> Target:
    if config.instance_kind == "cpu" or config.target == "cpu":
        raise NirvanaError(
            f"target names the GPU that the manifests ask for, got {config.target!r} with "
            f"instance_kind {config.instance_kind}. Leave it out for a CPU, or choose among "
            f"{', '.join(list_target_names())}."
        )
    return load_target(config.target)


def _read_capabilities(sources: Sources) -> tuple[str, ...]:
    assert sources.engine is not None
    manifest = read_engine_manifest(sources.engine)
    # Which GPUs "Ampere and newer" are, no label says.
    return () if manifest.hardware_compatible == "ampere_plus" else list_targets(manifest)


def _match(capability: str, target: Target | None) -> list[dict[str, Any]]:
    major, _, minor = capability.partition(".")
    labels = {"major": major, "minor": minor}
    found: list[dict[str, Any]] = [
        {"key": f"nvidia.com/gpu.compute.{part}", "operator": "In", "values": [value]}
        for part, value in labels.items()
    ]
    if target is not None:
        least = str(int(target.memory_gb * _REPORTED_MIB_PER_GB))
        found.append({"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [least]})
    return found
