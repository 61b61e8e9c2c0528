"""Puts re-trained weights of the same plan into an engine, without building it again.

The engine must have been built refittable, and it is loaded for it: this needs its GPU.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from exporters.engines.build_errors import describe_parser_errors, join_errors
from exporters.engines.build_graph import convert_types, hash_source
from exporters.engines.check_loadable import check_loadable
from exporters.engines.engine_flavour import import_flavour
from exporters.engines.engine_graph import hash_structure, load_graph
from exporters.engines.engine_manifest import (
    ENGINE_NAME,
    LOG_NAME,
    EngineManifest,
    EngineResult,
    check_engine,
)
from exporters.engines.engine_progress import BuildLog, make_logger
from exporters.engines.local_gpu import find_gpu
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError
from pruning.write_aside import make_folder, write_aside


def refit_engine(engine_dir: Path, onnx_path: Path, out_dir: Path) -> EngineResult:
    """Write the engine of `engine_dir` with the weights of `onnx_path` into `out_dir`.

    The old engine stays as it is. Everything but the weights is the old engine's, its audit too.

    Raises:
        NirvanaError: the engine is not refittable, or not for this machine; the graph differs in
            more than its weights; a weight is missing.
    """
    manifest = check_engine(engine_dir)
    model = load_graph(onnx_path)
    _check_refittable(manifest, engine_dir, onnx_path, hash_structure(model))
    device = find_gpu()
    # Without a GPU no flavor is asked for: a machine that cannot run it may lack it as well.
    flavour = manifest.result.flavour
    trt = import_flavour(flavour) if device is not None else None
    version = manifest.result.version if trt is None else str(trt.__version__)
    check_loadable(manifest, engine_dir, flavour=flavour, version=version, device=device)

    source = hash_source(onnx_path, model)
    log = BuildLog()
    started = time.perf_counter()
    graph = convert_types(onnx_path, model, manifest.result.precision_asked)
    old = (engine_dir / manifest.result.engine_path).read_bytes()
    plan = _refit(trt, log, old, graph if graph is not None else onnx_path)
    seconds = time.perf_counter() - started

    return _write(manifest, engine_dir, out_dir, memoryview(plan), onnx_path.name, source, seconds)


def _write(
    old: EngineManifest,
    engine_dir: Path,
    out_dir: Path,
    plan: memoryview,
    onnx_name: str,
    source: dict[str, str],
    seconds: float,
) -> EngineResult:
    """Write the new engine's folder: the old one's, with other weights and hashes."""
    make_folder(out_dir, "build")
    shutil.copyfile(engine_dir / old.result.log_path, out_dir / LOG_NAME)
    with write_aside(out_dir / ENGINE_NAME) as aside:
        aside.write_bytes(plan)
    result = dataclasses.replace(
        old.result,
        engine_path=ENGINE_NAME,
        engine_size_bytes=plan.nbytes,
        build_seconds=round(seconds, 3),
        onnx_sha256=source[onnx_name],
        log_path=LOG_NAME,
        status="refitted",
    )
    dataclasses.replace(
        old,
        result=result,
        engine_sha256=hash_file(out_dir / ENGINE_NAME),
        onnx_name=onnx_name,
        onnx_data_sha256={name: sha for name, sha in source.items() if name != onnx_name},
        refitted_from=old.engine_sha256,
    ).write(out_dir)
    return result


def _check_refittable(
    manifest: EngineManifest, engine_dir: Path, onnx_path: Path, structure_sha256: str
) -> None:
    if not manifest.refittable:
        raise NirvanaError(
            f"{engine_dir} was not built to be refitted. Build it with refittable true, or build "
            f"{onnx_path} anew."
        )
    if manifest.structure_sha256 != structure_sha256:
        raise NirvanaError(
            f"{onnx_path} differs from the graph of {engine_dir} in more than its weights: other "
            "nodes, shapes or names. Only weights of the same plan, exported alike, can be put "
            "into an engine. Build it anew."
        )


def _refit(trt: Any, log: BuildLog, old: bytes, graph: bytes | Path) -> Any:
    """Return the engine with other weights, serialized."""
    logger = make_logger(trt, log)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(old)
    if engine is None:
        raise NirvanaError(f"{trt.__name__} cannot load the engine: {join_errors(log.errors)}")
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if isinstance(graph, Path):
        done = parser.refit_from_file(str(graph))
    else:
        done = parser.refit_from_bytes(graph)
    if not done:
        raise NirvanaError(f"the weights do not fit the engine: {describe_parser_errors(parser)}")
    if missing := refitter.get_missing_weights():
        raise NirvanaError(
            f"the engine needs further weights: {', '.join(missing)}. Build it anew from this "
            "graph."
        )
    if not refitter.refit_cuda_engine():
        raise NirvanaError(f"the engine was not refitted: {join_errors(log.errors)}")
    plan = _serialise(trt, engine)
    if plan is None:
        raise NirvanaError(f"the engine was not serialised: {join_errors(log.errors)}")
    return plan


def _serialise(trt: ModuleType, engine: Any) -> object:
    """Serialize an engine so that it can be refitted again, where the flavor leaves the choice."""
    flags = getattr(trt, "SerializationFlag", None)
    if not hasattr(flags, "INCLUDE_REFIT"):
        return engine.serialize()
    settings = engine.create_serialization_config()
    settings.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    return engine.serialize_with_config(settings)
