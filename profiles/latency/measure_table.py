"""Measures a latency table through real exported blocks, or finds it in the cache.

A table's folder is named after a hash of all that its numbers depend on. An interrupted measurement
goes on from the rounds that it has.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from exporters.export_config import ExportConfig
from profiles.latency.latency_config import TableConfig
from profiles.latency.latency_table import TABLE_FORMAT, LatencyCurve, LatencyTable
from profiles.latency.sample_blocks import SampleBlock
from profiles.latency.traced_blocks import (
    AFTER,
    BEFORE,
    DENSE,
    SAMPLE_FILE,
    list_traced,
    open_blocks,
    trace_blocks,
)
from profiles.measuring.environment import (
    capture_environment,
    count_allowed_cpus,
    find_version,
    read_cpu_name,
)
from profiles.measuring.measurement import Clock, RotatingTimer
from profiles.measuring.statistics import Samples, find_drift
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.progress import Progress
from pruning.strict_json import read_json
from pruning.write_aside import write_json

TABLE_FILE = "table.json"
SAMPLES_FILE = "samples.json"
_CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
_SECONDS_BETWEEN_SAVES = 5.0


def measure_table(
    model: PreTrainedModel,
    config: TableConfig,
    *,
    cache: Path | None = None,
    export: ExportConfig | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Return the table of a dense model on this machine's CPU, from the cache where it is there.

    `model` was loaded with eager attention, in float32. `cache` is by default that of the user.

    Raises:
        NirvanaError: the model has no table, or cannot be exported.
    """
    export = export or ExportConfig()
    if (export.form, export.precision) != ("portable", "fp32"):
        raise NirvanaError(
            f"Latency tables are of the form portable in fp32, got {export.form} in "
            f"{export.precision}. Leave both as they are."
        )
    key = describe_key(model, config, export)
    folder = find_folder(key, cache or default_cache())
    if (folder / TABLE_FILE).is_file():
        return LatencyTable.load(folder / TABLE_FILE)
    if not (folder / SAMPLE_FILE).is_file():
        trace_blocks(model, config.call, export, config.num_points, folder)
    samples = _measure(folder, config, progress)
    table = make_table(
        read_model(model).dims.stacks[0],
        list_traced(folder),
        samples,
        {"key": key, **_describe(samples, config)},
    )
    table.save(folder / TABLE_FILE)
    return table


def find_folder(key: Mapping[str, object], cache: Path) -> Path:
    """Return the folder of a table in a cache, there or not."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache / digest[:16]


def describe_key(
    model: PreTrainedModel, config: TableConfig, export: ExportConfig
) -> dict[str, object]:
    """Return all that the numbers of a table depend on, as plain data."""
    source = read_model(model)
    num_threads = config.num_threads or count_allowed_cpus()
    key = {
        "format": TABLE_FORMAT,
        "target": read_cpu_name(),
        "runtime": "onnxruntime CPU",
        "versions": {n: find_version(n) for n in ("onnxruntime", "torch", "transformers")},
        "dims": asdict(source.dims),
        "config_hash": source.current.config_hash,
        "model_class": type(model).__name__,
        "form": export.form,
        "precision": export.precision,
        "opset": export.chosen_opset,
        **{**asdict(config), "num_threads": num_threads},
    }
    plain: dict[str, object] = json.loads(json.dumps(key))
    return plain


def default_cache() -> Path:
    """Return the user's folder of tables."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "nirvana-deploy" / "latency-tables"


def make_table(
    stack: Any,
    blocks: tuple[SampleBlock, ...],
    samples: Mapping[str, Samples],
    measured: Mapping[str, object],
) -> LatencyTable:
    """Make a table of the samples of each block, in ms; a block without samples took nothing."""
    typical = {
        block: find_typical(samples[block.name]) if block.name in samples else 0.0
        for block in blocks
    }
    empty = next(took for block, took in typical.items() if block.part == "none")
    curves = {}
    for part in ("attention", "mlp"):
        found = sorted((b.kept, took - empty) for b, took in typical.items() if b.part == part)
        kept, latency = zip((0, 0.0), *found, strict=True)
        curves[part] = LatencyCurve.fit(kept, latency)
    return LatencyTable(
        stack=stack,
        attention=curves["attention"],
        mlp=curves["mlp"],
        block_ms=empty,
        dense_ms=find_typical(samples[DENSE]),
        rest_ms=sum(find_typical(samples[name]) for name in (BEFORE, AFTER)),
        measured=measured,
    )


def find_typical(samples_ms: Samples) -> float:
    """Return the lower quartile: disturbances only ever add, and weigh more on short calls."""
    return float(np.quantile(samples_ms, 0.25))


def _measure(folder: Path, config: TableConfig, progress: Progress | None) -> dict[str, Samples]:
    path = folder / SAMPLES_FILE
    earlier = _read_samples(path) if path.is_file() else None
    timer = RotatingTimer(
        open_blocks(folder, config.num_threads or count_allowed_cpus()),
        clock=_CLOCKS[config.clock],
        samples_ms=earlier,
    )
    last_save = time.monotonic()

    def after_round(num_rounds: int) -> None:
        nonlocal last_save
        if progress is not None:
            progress("latency table", num_rounds, config.num_rounds)
        if time.monotonic() - last_save > _SECONDS_BETWEEN_SAVES:
            _save_samples(path, timer.samples_ms)
            last_save = time.monotonic()

    timer.warm_up(3)
    samples = timer.measure(config.num_rounds, after_round)
    _save_samples(path, timer.samples_ms)
    return samples


def _read_samples(path: Path) -> dict[str, list[float]]:
    return read_json(path, dict[str, list[float]], remedy=f"Delete {path.parent}.")


def _save_samples(path: Path, samples_ms: Mapping[str, list[float]]) -> None:
    whole = min(map(len, samples_ms.values()))
    rounded = {name: [round(v, 5) for v in s[:whole]] for name, s in samples_ms.items()}
    write_json(path, rounded, indent=None)


def _describe(samples: Mapping[str, Samples], config: TableConfig) -> dict[str, object]:
    """Return what a reader must know to trust the table."""
    drifts = {name: find_drift(values) for name, values in samples.items()}
    return {
        "environment": capture_environment(config.num_threads or count_allowed_cpus()),
        "semantics": "ours: blocks cut from the exported graph, in rounds, lower quartiles",
        "drifted": {name: drift for name, drift in drifts.items() if drift is not None},
    }
