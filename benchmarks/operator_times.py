"""Where the time of two ONNX models goes, by operator, in ONNX Runtime on the CPU.

python benchmarks/operator_times.py EXPORT_FOLDER      # one with dense/ and pruned/
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

NUM_RUNS = 40


def compare_operator_times(exported: Path, batch: int, length: int) -> dict[str, Any]:
    """Return milliseconds a run by operator for dense and pruned, and their ratios.

    The two are profiled in turns. Profiling itself costs time: read shares and ratios, not sums.
    """
    sessions = {
        name: _open_profiled(exported / name / "model.onnx") for name in ("dense", "pruned")
    }
    for _ in range(NUM_RUNS):
        for session in sessions.values():
            session.run(None, _make_inputs(session, batch, length))
    times = {name: _read_times(session) for name, session in sessions.items()}
    rows = []
    for operator, dense_ms in sorted(times["dense"].items(), key=lambda item: -item[1]):
        pruned_ms = times["pruned"].get(operator, 0.0)
        ratio = dense_ms / pruned_ms if pruned_ms else None
        rows.append(
            {"operator": operator, "dense_ms": dense_ms, "pruned_ms": pruned_ms, "ratio": ratio}
        )
    return {"batch": batch, "length": length, "num_runs": NUM_RUNS, "operators": rows}


def _open_profiled(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "profile")
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _make_inputs(session: Any, batch: int, length: int) -> dict[str, np.ndarray]:
    shape = (batch, length)
    inputs = {i.name: np.zeros(shape, dtype=np.int64) for i in session.get_inputs()}
    inputs["input_ids"] = np.random.default_rng(0).integers(1000, 2000, shape)
    inputs["attention_mask"] = np.ones(shape, dtype=np.int64)
    return inputs


def _read_times(session: Any) -> dict[str, float]:
    """Sum the kernels of each operator over all runs but the first."""
    events = json.loads(Path(session.end_profiling()).read_text())
    starts = [e["ts"] for e in events if e["name"] == "model_run"]
    times: dict[str, float] = defaultdict(float)
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] > sorted(starts)[1]:
            times[event["args"]["op_name"]] += event["dur"] / 1000 / (NUM_RUNS - 1)
    return dict(times)


if __name__ == "__main__":
    print(json.dumps(compare_operator_times(Path(sys.argv[1]), 8, 128), indent=1))
