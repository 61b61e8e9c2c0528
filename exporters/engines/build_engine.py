"""Builds a TensorRT or TensorRT-RTX engine from an ONNX file, and says what came of it.

TensorRT-RTX builds on a machine with no GPU. Networks are strongly typed: the types in the graph
are the engine's, so that fp16 is asked for by converting the graph, never by a builder flag.
"""

from __future__ import annotations

import dataclasses
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from exporters.engines.build_errors import (
    advise,
    advise_on_operators,
    describe_parser_errors,
    join_errors,
)
from exporters.engines.build_graph import BuildGraph, convert_types, read_build_graph
from exporters.engines.engine_audit import (
    HEAL_ATTENTION,
    EngineAudit,
    audit_build_log,
    describe_unfused,
    list_warnings,
)
from exporters.engines.engine_config import EngineConfig
from exporters.engines.engine_flavour import choose_capabilities, import_flavour
from exporters.engines.engine_manifest import (
    ENGINE_NAME,
    LOG_NAME,
    EngineManifest,
    EngineResult,
)
from exporters.engines.engine_options import (
    add_profiles,
    load_timing_cache,
    make_settings,
    save_timing_cache,
)
from exporters.engines.engine_progress import BuildLog, make_logger, make_monitor, stop_on_interrupt
from exporters.engines.local_gpu import find_flavour_cuda, find_gpu
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError
from pruning.write_aside import make_folder, write_aside

__all__ = ["EngineResult", "build_engine"]


def build_engine(
    onnx_path: Path,
    out_dir: Path,
    config: EngineConfig,
    num_attention_layers: int | None = None,
) -> EngineResult:
    """Build one engine into `out_dir`: `model.engine`, `engine.json`, `build.log`.

    `num_attention_layers` is what the fused attentions are compared with; None: count the graph's.
    An fp16 engine whose attentions are not fused, or not all, is a result with `warnings`, unless
    the config requires them.
    Raises MissingExtraError without a flavor, NirvanaError for a graph or an option that the
    flavor refuses, KeyboardInterrupt after Ctrl-C.
    """
    trt = import_flavour(config.flavour)
    targets = choose_capabilities(trt, config.compute_capabilities)
    config = dataclasses.replace(config, compute_capabilities=targets)
    graph = read_build_graph(onnx_path, config)
    if num_attention_layers is None:
        num_attention_layers = len(graph.attentions)
    make_folder(out_dir, "build")

    log = BuildLog()
    started = time.perf_counter()
    try:
        plan, cache = _build_plan(trt, log, graph, config)
    finally:
        (out_dir / LOG_NAME).write_text(log.text, encoding="utf-8")
    build_seconds = time.perf_counter() - started

    audit = audit_build_log(
        log.text,
        attentions=graph.attentions,
        blocks=graph.blocks,
        profiles=tuple(graph.profiles),
    )
    if config.require_fused_attention:
        _require_fused(audit, num_attention_layers)
    with write_aside(out_dir / ENGINE_NAME) as aside:
        aside.write_bytes(memoryview(plan))
    result = _make_result(
        trt, graph, config, audit, num_attention_layers, plan.nbytes, round(build_seconds, 3)
    )
    engine_sha256 = hash_file(out_dir / ENGINE_NAME)
    _make_manifest(trt, graph, config, result, engine_sha256, cache).write(out_dir)
    return result


def _make_result(
    trt: ModuleType,
    graph: BuildGraph,
    config: EngineConfig,
    audit: EngineAudit | None,
    num_attention_layers: int,
    size_bytes: int,
    build_seconds: float,
) -> EngineResult:
    first, *further = graph.profiles.values()
    return EngineResult(
        flavour=trt.__name__,
        version=str(trt.__version__),
        precision_asked=graph.precision,
        precision_found=audit.precision_found if audit else {},
        compute_capabilities=tuple(_target_name(name) for name in config.compute_capabilities),
        num_attention_layers=num_attention_layers,
        num_fused_attentions=audit.num_fused_attentions if audit else None,
        engine_path=ENGINE_NAME,
        engine_size_bytes=size_bytes,
        build_seconds=build_seconds,
        onnx_sha256=graph.sha256[graph.path.name],
        optimisation_profile=first,
        warnings=list_warnings(
            audit, precision=graph.precision, num_attention_layers=num_attention_layers
        ),
        profile_names=tuple(graph.profiles),
        further_profiles=tuple(further),
        unfused_attentions=audit.unfused_attentions if audit else (),
        kernels_by_block=audit.kernels_by_block if audit else {},
    )


def _make_manifest(
    trt: ModuleType,
    graph: BuildGraph,
    config: EngineConfig,
    result: EngineResult,
    engine_sha256: str,
    cache: Path | None,
) -> EngineManifest:
    return EngineManifest(
        result=result,
        engine_sha256=engine_sha256,
        onnx_name=graph.path.name,
        onnx_data_sha256=graph.data_sha256,
        versions=_list_versions(trt, graph.precision),
        structure_sha256=graph.structure_sha256,
        built_on=find_gpu(),
        cuda=find_flavour_cuda(trt.__name__),
        version_compatible=config.version_compatible,
        hardware_compatible=config.hardware_compatible,
        refittable=config.refittable,
        weight_streaming=config.weight_streaming,
        timing_cache=cache.name if cache else None,
    )


def _build_plan(
    trt: ModuleType, log: BuildLog, graph: BuildGraph, config: EngineConfig
) -> tuple[Any, Path | None]:
    """Return the serialized engine, as TensorRT's host memory, and the file of timings."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    network = _make_network(trt, builder)
    # The parser owns the weights that the network points to: it lives as long as the build.
    parser = trt.OnnxParser(network, logger)
    _parse(parser, graph)
    _allow_unfused_attention(trt, network)
    settings = make_settings(trt, builder, log, config, graph.precision)
    add_profiles(builder, settings, graph.profiles.values())
    cache = None
    if config.timing_cache is not None:
        cache = load_timing_cache(trt, settings, log, config.timing_cache, find_gpu())
    with (
        stop_on_interrupt() as stop,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        if hasattr(trt, "IProgressMonitor"):
            settings.progress_monitor = make_monitor(trt, stop, bar)
        plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise NirvanaError(
            f"{trt.__name__} could not build {graph.path}: {join_errors(log.errors)}"
            f"{advise(log.errors, config)}"
        )
    if cache is not None:
        save_timing_cache(settings, cache)
    return plan, cache


def _make_network(trt: ModuleType, builder: Any) -> object:
    flags = trt.NetworkDefinitionCreationFlag
    # Networks of a flavor without the flag have no other kind.
    strongly_typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    return builder.create_network(strongly_typed)


def _parse(parser: Any, graph: BuildGraph) -> None:
    """Fill the parser's network in place from the file, or from its copy in another precision."""
    converted = convert_types(graph.path, graph.model, graph.precision)
    # From the file where it can be: the parser looks for external data beside it.
    done = parser.parse(converted) if converted else parser.parse_from_file(str(graph.path))
    if not done:
        raise NirvanaError(
            f"{graph.path} was refused by the ONNX parser: {describe_parser_errors(parser)}"
            f"{advise_on_operators(graph.model)}"
        )


def _allow_unfused_attention(trt: ModuleType, network: Any) -> None:
    """Let every `Attention` op (opset 23) fall back to its parts, in place.

    Else one without a dedicated kernel fails the build: a single head under a mask, or one query
    over a plain cache, which is fused all the same once it may fall back. Those that have a kernel
    keep it (TensorRT-RTX 1.7), and the audit counts the others.
    """
    if not hasattr(trt, "IAttentionInputLayer"):
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The binding returns the base class, and has no cast.
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _require_fused(audit: EngineAudit | None, num_attention_layers: int) -> None:
    if audit is None:
        raise NirvanaError(
            "require_fused_attention cannot be checked: the build log has no layer table. See "
            f"{LOG_NAME}."
        )
    if audit.num_fused_attentions < num_attention_layers:
        raise NirvanaError(
            f"require_fused_attention: {describe_unfused(audit, num_attention_layers)} "
            f"{HEAL_ATTENTION}"
        )


def _list_versions(trt: ModuleType, precision: str) -> dict[str, str]:
    versions = {trt.__name__: str(trt.__version__), "onnx": metadata.version("onnx")}
    if precision in ("fp16", "bf16"):
        versions["onnx-ir"] = metadata.version("onnx-ir")  # it converts
    return versions


def _target_name(capability: str) -> str:
    return "sm" + capability.replace(".", "")
