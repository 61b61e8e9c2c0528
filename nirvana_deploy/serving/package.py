"""Packages a model for the stack that was asked for, and has its real server check it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nirvana_deploy.serving.package_config import (
    HUB_STACKS,
    CheckpointSources,
    PackageConfig,
    Sources,
)
from nirvana_deploy.serving.package_manifest import PackageResult
from pruning.errors import NirvanaError


def package_model(
    sources: Sources, out_dir: Path, config: PackageConfig, *, check: bool = False
) -> PackageResult:
    """Write the package into `out_dir`; with `check`, also run it by the real software."""
    if isinstance(sources, CheckpointSources):
        return _package_checkpoint(sources, out_dir, config, check=check)
    if config.to == "genai":
        from nirvana_deploy.serving.genai import check_genai, package_genai

        result = package_genai(sources, out_dir, config)
        return replace(result, server_check=check_genai(out_dir)) if check else result
    from nirvana_deploy.serving.triton.triton_package import package_triton

    result = package_triton(sources, out_dir, config)
    if not check:
        return result
    from nirvana_deploy.serving.triton.triton_check import check_with_server

    found = check_with_server(out_dir, onnx=sources.onnx)
    return replace(result, server_check=found.to_json())


def _package_checkpoint(
    sources: CheckpointSources, out_dir: Path, config: PackageConfig, *, check: bool
) -> PackageResult:
    from nirvana_deploy.serving.hub_checkpoint import package_checkpoint

    if check and config.to != "vllm":
        raise NirvanaError(
            f"{HUB_STACKS[config.to].name} is not run here: leave out --check. What it can hold is "
            "checked in any case."
        )
    result = package_checkpoint(sources, out_dir, config)
    if not check:
        return result
    from nirvana_deploy.serving.vllm.vllm_check import check_with_vllm

    served = check_with_vllm(out_dir, sources.checkpoint, trust_remote_code=config.remote_code)
    return replace(result, server_check=served.to_json())
