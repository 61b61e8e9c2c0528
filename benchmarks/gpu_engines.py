"""Dense against pruned as TensorRT engines, in each flavour that is installed.

The graphs come from `gpu_graphs`. The engines are built here, for this GPU, and run by what
`nirvana profile` runs them by; their logits are held against torch's first. Without a GPU they are
built, where the flavour can, and not run.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_graphs import ENDED, EXPECTED, READY, SHAPES, SIDES, wait_for
from gpu_models import Shape, find_shape
from gpu_record import PartRecord
from gpu_timing import REHEARSAL, TIMING, compare_runs

from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig
from exporters.engines.engine_flavour import import_flavour
from exporters.engines.local_gpu import find_gpu
from profiles.runners.engine_folder_runner import EngineFolderRunner
from profiles.runners.token_inputs import make_token_inputs
from pruning.errors import MissingExtraError

# Where an engine may have no GPU of its own to be built for: that of most cloud machines.
_REHEARSED_CAPABILITY = "8.9"
VOCAB = 1000  # of the token ids that are drawn


def list_flavours() -> dict[str, str]:
    """Return the version of each TensorRT flavor that is installed."""
    found = {}
    for name in ("tensorrt_rtx", "tensorrt"):
        with contextlib.suppress(MissingExtraError):
            found[name] = str(import_flavour(name).__version__)
    return found


def compare_engines(record: PartRecord, folder: Path) -> None:
    """Build and time each pair of graphs as it becomes ready, the small model's first."""
    flavours = list_flavours()
    record.state(flavours=flavours)
    if not flavours:
        reason = "no TensorRT flavour is installed"
        record.data["not_run"].append({"what": "TensorRT engines", "reason": reason})
        return
    for name in SHAPES:
        shape = find_shape(name, record.rehearse)
        pair = folder / name / "tensorrt-fp32"
        if not wait_for(pair / READY, folder / name / ENDED, record):
            reason = "no graph; see write_graphs"
            record.data["not_run"].append({"shape": name, "reason": reason})
            record.write()
            continue
        for flavour in flavours:
            what = {"shape": name, "flavour": flavour, "precision": "fp16"}
            engines = record.attempt(
                lambda pair=pair, flavour=flavour: _build_pair(pair, flavour), **what
            )
            if engines is not None:
                record.add(**what, engines=engines)
                _compare_pair(record, shape, pair / flavour, what)


def _build_pair(pair: Path, flavour: str) -> dict[str, Any]:
    """Build both sides for this machine's GPU; return what came of each."""
    gpu = find_gpu()
    names = () if flavour == "tensorrt" else (gpu.compute_capability if gpu else None,)
    config = EngineConfig(
        flavour=flavour, compute_capabilities=tuple(n or _REHEARSED_CAPABILITY for n in names)
    )
    engines = {}
    for side in SIDES:
        built = build_engine(pair / f"{side}.onnx", pair / flavour / side, config)
        engines[side] = {
            "version": built.version,
            "build_seconds": built.build_seconds,
            "size_bytes": built.engine_size_bytes,
            "attentions": built.num_attention_layers,
            "fused_attentions": built.num_fused_attentions,
            "precision_found": dict(built.precision_found),
            "warnings": list(built.warnings),
        }
    return engines


def _compare_pair(record: PartRecord, shape: Shape, engines: Path, what: dict[str, Any]) -> None:
    """Time all batches, launched one by one and as a CUDA graph."""
    if record.device != "cuda":
        record.data["not_run"].append({**what, "reason": "no GPU: the engines are built, not run"})
        record.write()
        return
    for cuda_graph in (False, True):
        tried = {**what, "cuda_graph": cuda_graph}
        runners = record.attempt(
            lambda cuda_graph=cuda_graph: [
                EngineFolderRunner(engines / side, name=side, cuda_graph=cuda_graph)
                for side in SIDES
            ],
            **tried,
        )
        if runners is None:
            continue
        errors = record.attempt(
            lambda runners=runners: _find_errors(runners, engines), **tried, what="check"
        )
        tried["relative_error_of_logits"] = errors
        for batch, length, _ in shape.cases:
            case = {**tried, "batch": batch, "length": length}
            timed = record.attempt(
                lambda runners=runners, size=(batch, length): _compare(record, runners, size),
                **case,
            )
            if timed is not None:
                record.add(**case, **timed)


def _compare(
    record: PartRecord, runners: list[EngineFolderRunner], size: tuple[int, int]
) -> dict[str, Any]:
    batch, length = size
    calls = [
        runner.bind(
            make_token_inputs(runner.inputs, batch=batch, length=length, vocab_size=VOCAB, seed=0)
        )
        for runner in runners
    ]
    return compare_runs(*calls, REHEARSAL if record.rehearse else TIMING)


def _find_errors(runners: list[EngineFolderRunner], engines: Path) -> list[float]:
    """Return how far each engine's logits are off torch's, relative to their norm."""
    expected = torch.load(engines.parents[1] / EXPECTED)
    errors = []
    for side, runner in zip(SIDES, runners, strict=True):
        given = {i.name: expected[side][i.name].numpy().astype(i.dtype) for i in runner.inputs}
        (found,) = runner.bind(given)().values()
        logits = expected[side]["logits"].numpy()
        errors.append(float(np.linalg.norm(found - logits) / np.linalg.norm(logits)))
    return errors
