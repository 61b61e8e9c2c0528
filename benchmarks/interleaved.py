"""Times several ONNX files in turns, each loaded anew a few times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NUM_ROUNDS = 5


def measure_latencies(
    files: Mapping[str, Path], batch: int, length: int, *, num_runs: int
) -> dict[str, dict[str, Any]]:
    """Return median and quartiles, ms of CPU time of one thread, of `num_runs` runs a file."""
    draw = np.random.default_rng(batch)
    samples: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(NUM_ROUNDS):
        sessions = {name: _open(path) for name, path in files.items()}
        feeds = _make_feeds(next(iter(sessions.values())), batch, length)
        for session in sessions.values():
            session.run(None, feeds)
        for _ in range(max(1, num_runs // NUM_ROUNDS)):
            for name in draw.permutation(list(files)):
                started = time.process_time()
                sessions[name].run(None, feeds)
                samples[name].append((time.process_time() - started) * 1e3)
    return {name: describe(times) for name, times in samples.items()}


def describe(samples: list[float]) -> dict[str, Any]:
    """Return median, quartiles and the number of samples."""
    low, median, high = np.quantile(samples, (0.25, 0.5, 0.75))
    return {
        "median": float(median),
        "quartiles": [float(low), float(high)],
        "num_samples": len(samples),
    }


def _open(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _make_feeds(session: Any, batch: int, length: int) -> dict[str, np.ndarray]:
    feeds = {i.name: np.zeros((batch, length), np.int64) for i in session.get_inputs()}
    feeds["input_ids"] = np.random.default_rng(0).integers(1000, 2000, (batch, length))
    feeds["attention_mask"] = np.ones((batch, length), np.int64)
    return feeds
