"""Our ONNX Runtime latency against what ONNX Runtime's own profiler counts of the same runs.

python benchmarks/latency_crosscheck.py [--out FILE]

The profiler times each run inside the run-time, by a clock of its own; we time the call around it
from Python. What lies between is what a caller pays besides.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from figures import describe_hardware, make_bar
from latency_target import SUBJECTS, make_dense

from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from profiles.measuring.environment import capture_environment, find_version
from profiles.measuring.measurement import RotatingTimer
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from profiles.runners.token_inputs import make_token_inputs

SHAPES = ((1, 128), (8, 128))


def read_model_runs(path: Path) -> np.ndarray:
    """Return the profiler's duration of each run, in ms, in the order of time."""
    events = [e for e in json.loads(path.read_text()) if e["name"] == "model_run"]
    return np.array([e["dur"] / 1000 for e in sorted(events, key=lambda e: e["ts"])])


def compare_shape(path: Path, batch: int, length: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Time the same runs by both, and return medians and their difference."""
    runner = OnnxRuntimeRunner(path, num_threads=1, profile_prefix=folder / f"{batch}x{length}")
    inputs = make_token_inputs(runner.inputs, batch=batch, length=length, vocab_size=500, seed=0)
    timer = RotatingTimer({"ours": runner.bind(inputs)}, clock=time.perf_counter)
    timer.warm_up(4)
    ours_ms = timer.measure(rounds)["ours"]
    theirs_ms = read_model_runs(runner.end_profiling())[-rounds:]
    ours, theirs = float(np.median(ours_ms)), float(np.median(theirs_ms))
    return {
        "batch": batch,
        "length": length,
        "num_samples": rounds,
        "ours_median_ms": ours,
        "profiler_median_ms": theirs,
        "difference_fraction": ours / theirs - 1,
        # Of each run alone, so that what others do to the machine is in both.
        "median_of_paired_differences": float(np.median(ours_ms / theirs_ms)) - 1,
    }


def main() -> None:
    """Trace MiniLM's shape, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here / "results" / "latency_crosscheck.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (part,) = list_parts(make_dense(SUBJECTS[0]), ExportConfig())
        write_graph(trace_graph(part, ExportConfig().chosen_opset), folder / "model.onnx")
        cases = [
            compare_shape(folder / "model.onnx", batch, length, folder, args.rounds)
            for batch, length in SHAPES
        ]
    bars = [
        make_bar(
            f"MiniLM {case['batch']}x{case['length']}: |ours / ONNX Runtime's profiler - 1|",
            abs(case["difference_fraction"]),
            0.03,
            "at_most",
        )
        for case in cases
    ]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {n: find_version(n) for n in ("onnxruntime", "torch", "transformers")},
        "environment": capture_environment(1),
        "data": "MiniLM-L6's shape, random weights and tokens; one thread, wall time",
        "cases": cases,
        "bars": bars,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(cases, indent=1))


if __name__ == "__main__":
    main()
