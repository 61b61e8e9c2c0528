"""Builds a TensorRT or TensorRT-RTX engine from an ONNX file, and says what came of it.

TensorRT-RTX builds on a machine with no GPU. Networks are strongly typed: the types in the graph
are the engine's, so that fp16 is asked for by converting the graph, never by a builder flag.
"""

from __future__ import annotations

import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.engines.engine_audit import audit_build_log, list_warnings
from exporters.engines.engine_config import EngineConfig
from exporters.engines.engine_flavour import check_capabilities, import_flavour
from exporters.engines.engine_graph import (
    Profile,
    count_attentions,
    list_external_data,
    load_graph,
    plan_profile,
)
from exporters.engines.engine_manifest import (
    ENGINE_NAME,
    LOG_NAME,
    EngineManifest,
    EngineResult,
)
from exporters.engines.engine_progress import BuildLog, make_logger, make_monitor, stop_on_interrupt
from exporters.precision.half_precision import convert_to_half
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

__all__ = ["EngineResult", "build_engine"]

# A protobuf message, in which the parser takes a converted graph, ends at 2 GiB.
MAX_GRAPH_BYTES = 2**31 - 1


def build_engine(
    onnx_path: Path,
    out_dir: Path,
    config: EngineConfig,
    num_attention_layers: int | None = None,
) -> EngineResult:
    """Build one engine into `out_dir`: `model.engine`, `engine.json`, `build.log`.

    `num_attention_layers` is what the fused attentions are held against; None: count the graph's.
    An fp16 engine whose attentions are not fused, or not all, is a result with `warnings`.
    Raises MissingExtraError without a flavour, NirvanaError for a graph or an option that the
    flavour refuses, KeyboardInterrupt after Ctrl-C.
    """
    trt = import_flavour(config.flavour)
    check_capabilities(trt, config.compute_capabilities)
    model = load_graph(onnx_path)
    source = _hash_source(onnx_path, model)
    profile = plan_profile(model, config)
    if num_attention_layers is None:
        num_attention_layers = count_attentions(model)
    _make_folder(out_dir)

    log = BuildLog()
    started = time.perf_counter()
    try:
        plan = _build_plan(trt, log, onnx_path, model, profile, config)
    finally:
        (out_dir / LOG_NAME).write_text(log.text, encoding="utf-8")
    build_seconds = time.perf_counter() - started

    _write_whole(out_dir / ENGINE_NAME, memoryview(plan))
    audit = audit_build_log(log.text)
    result = EngineResult(
        flavour=trt.__name__,
        version=str(trt.__version__),
        precision_asked=config.precision,
        precision_found=audit.precision_found if audit else {},
        compute_capabilities=tuple(_target_name(name) for name in config.compute_capabilities),
        num_attention_layers=num_attention_layers,
        num_fused_attentions=audit.num_fused_attentions if audit else None,
        engine_path=ENGINE_NAME,
        engine_size_bytes=plan.nbytes,
        build_seconds=round(build_seconds, 3),
        onnx_sha256=source[onnx_path.name],
        optimisation_profile=profile,
        warnings=list_warnings(
            audit, precision=config.precision, num_attention_layers=num_attention_layers
        ),
    )
    _describe(result, onnx_path, source, out_dir / ENGINE_NAME).write(out_dir)
    return result


def _build_plan(
    trt: Any,
    log: BuildLog,
    onnx_path: Path,
    model: onnx.ModelProto,
    profile: Profile,
    config: EngineConfig,
) -> Any:
    """Return the serialised engine, as TensorRT's host memory."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    network = _make_network(trt, builder)
    # The parser owns the weights that the network points to: it lives as long as the build.
    parser = trt.OnnxParser(network, logger)
    _parse(parser, onnx_path, model, config.precision)
    _allow_unfused_attention(trt, network)
    settings = _make_settings(trt, builder, profile, config)
    with (
        stop_on_interrupt() as stop,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        if hasattr(trt, "IProgressMonitor"):
            settings.progress_monitor = make_monitor(trt, stop, bar)
        plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise NirvanaError(
            f"{trt.__name__} could not build {onnx_path}: {_join(log.errors)}{_advise(log, config)}"
        )
    return plan


def _make_network(trt: Any, builder: Any) -> Any:
    flags = trt.NetworkDefinitionCreationFlag
    # Networks of a flavour without the flag have no other kind.
    strongly_typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    return builder.create_network(strongly_typed)


def _parse(parser: Any, onnx_path: Path, model: onnx.ModelProto, precision: str) -> None:
    """Fill the parser's network in place from the file, or from its float16 copy."""
    if precision == "fp16":
        done = parser.parse(_half_graph(onnx_path, model))
    else:
        done = parser.parse_from_file(str(onnx_path))
    if not done:
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise NirvanaError(f"{onnx_path} was refused by the ONNX parser: {_join(errors)}")


def _half_graph(onnx_path: Path, model: onnx.ModelProto) -> bytes:
    from onnx.external_data_helper import load_external_data_for_model

    load_external_data_for_model(model, str(onnx_path.parent))
    half = convert_to_half(model)
    size_bytes = half.ByteSize()
    if size_bytes > MAX_GRAPH_BYTES:
        raise NirvanaError(
            f"{onnx_path} has {size_bytes} bytes in float16; a graph that is converted here ends "
            f"at {MAX_GRAPH_BYTES}. Build it with precision fp32."
        )
    return half.SerializeToString()


def _allow_unfused_attention(trt: Any, network: Any) -> None:
    """Let every `Attention` op (opset 23) fall back to its parts, in place.

    Else one without a dedicated kernel, with a single head say, fails the build. Those that have a
    kernel keep it (TensorRT-RTX 1.7), and the audit counts the others.
    """
    if not hasattr(trt, "IAttentionInputLayer"):
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The binding returns the base class, and has no cast.
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _make_settings(trt: Any, builder: Any, profile: Profile, config: EngineConfig) -> Any:
    settings = builder.create_builder_config()
    # The layer table, from which the engine is audited, is printed at this verbosity only.
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if config.precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        # On by default, and then "fp32" products have the 10-bit mantissa of fp16.
        settings.clear_flag(trt.BuilderFlag.TF32)
    if config.workspace_mib is not None:
        limit_bytes = config.workspace_mib * 2**20
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit_bytes)
    if config.compute_capabilities:
        settings.num_compute_capabilities = len(config.compute_capabilities)
    for index, capability in enumerate(config.compute_capabilities):
        target = trt.ComputeCapability.__members__[_target_name(capability).upper()]
        settings.set_compute_capability(target, index)
    shapes = builder.create_optimization_profile()
    for name, shape in profile.items():
        shapes.set_shape(name, shape["min"], shape["opt"], shape["max"])
    settings.add_optimization_profile(shapes)
    return settings


def _hash_source(onnx_path: Path, model: onnx.ModelProto) -> dict[str, str]:
    """Return the SHA-256 of the ONNX file and of its external data, by name."""
    names = (onnx_path.name, *list_external_data(model))
    return {name: hash_file(onnx_path.parent / name) for name in names}


def _describe(
    result: EngineResult, onnx_path: Path, source: dict[str, str], engine_path: Path
) -> EngineManifest:
    versions = {result.flavour: result.version, "onnx": metadata.version("onnx")}
    if result.precision_asked == "fp16":
        import onnxruntime

        versions["onnxruntime"] = onnxruntime.__version__
    return EngineManifest(
        result=result,
        engine_sha256=hash_file(engine_path),
        onnx_name=onnx_path.name,
        onnx_data_sha256={name: sha for name, sha in source.items() if name != onnx_path.name},
        versions=versions,
    )


def _target_name(capability: str) -> str:
    return "sm" + capability.replace(".", "")


def _make_folder(out_dir: Path) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise NirvanaError(f"{out_dir} is a file; an engine needs a folder of its own.")
    out_dir.mkdir(parents=True, exist_ok=True)


def _write_whole(path: Path, data: memoryview) -> None:
    """Write a file aside and rename it: an older engine stays until the new one is complete."""
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _advise(log: BuildLog, config: EngineConfig) -> str:
    """Return what to do, where the log tells it."""
    errors = _join(log.errors)
    if config.workspace_mib is not None and ("OutOfMemory" in errors or "workspace" in errors):
        return f" Raise workspace_mib, which is {config.workspace_mib}."
    return ""


def _join(errors: list[str] | tuple[str, ...]) -> str:
    return "; ".join(errors) or "it gave no reason."
