"""Measures how long the command line takes to answer where no model has to be built.

python benchmarks/startup.py [--runs 5]

Each command runs in a process of its own, with byte code cached by a run before. Reported are the
least wall time of the runs and the processor's time of that run (user and system): on a machine
with other work, the first says what a user waits there, and the second is nearer to what an idle
core takes. The bars are on the processor's time. `inspect` of a folder with only a config builds
the model without weights, for which torch and transformers are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from figures import describe_hardware, make_bar  # noqa: E402

RESULT = Path(__file__).parent / "results" / "startup.json"
_CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
}
# Each command, its exit code and how many seconds it may take.
_COMMANDS: list[tuple[str, int, float]] = [
    ("--version", 0, 1.0),
    ("--help", 0, 1.0),
    ("deploy --help", 0, 1.0),
    ("doctor", 0, 1.0),
    ("targets", 0, 1.0),
    ("inspect config-only", 0, 1.5),
    ("inspect ./no-model", 1, 1.5),
    ("deploy --model ./no-model --out new", 1, 1.5),
    ("deploy --model config-only --out new", 1, 1.5),
    ("deploy --model config-only --prune.budget 7", 1, 1.5),
    ("prune config-only --out new", 1, 1.5),
    ("prune config-only --plan no.json --out new", 1, 1.5),
    ("prune --scores no --budget 0.5 --out new", 1, 1.5),
    ("score ./no-model --out new", 1, 1.5),
    ("export ./no-model --out new", 1, 1.5),
    ("verify ./no-model no.onnx", 1, 1.5),
    ("build no.onnx --out new", 1, 1.5),
    ("run-engine no", 1, 1.5),
    ("profile no.onnx no.onnx", 1, 1.5),
    ("sweep no.onnx", 1, 1.5),
    ("report no --out new.html", 1, 1.5),
    ("package no.onnx --out new", 1, 1.5),
    ("serve no", 1, 1.5),
    ("surgeon no.onnx no.json -o new.onnx", 1, 1.5),
    ("surgeon no.onnx plan.json -o new.onnx", 1, 1.5),
]


def main() -> None:
    """Measure all commands and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    num_runs = parser.parse_args().runs
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder))
        for command, code, target in _COMMANDS:
            row = measure(command, code, Path(folder), num_runs)
            rows.append(row)
            bars.append(make_bar(f"{command}, seconds", row["cpu_s"], target, "at_most"))
            sys.stdout.write(f"{row['wall_s']:6.2f} s, {row['cpu_s']:6.2f} s cpu: {command}\n")
            sys.stdout.flush()
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "onnx")},
        "num_runs": num_runs,
        "load_average": os.getloadavg()[0],
        "commands": rows,
        "bars": bars,
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


def measure(command: str, code: int, folder: Path, num_runs: int) -> dict[str, Any]:
    """Return the least wall time of a command, and the processor's time of that run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    runs = []
    for _ in range(num_runs + 1):  # the first one fills the caches
        before, start = os.times(), time.perf_counter()
        process = subprocess.run(
            [sys.executable, "-m", "nirvana_deploy", *command.split()],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        wall, after = time.perf_counter() - start, os.times()
        assert process.returncode == code, f"{command}: {process.stderr}"
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        runs.append((round(wall, 3), round(cpu, 3)))
    wall, cpu = min(runs[1:])
    return {"command": command, "wall_s": wall, "cpu_s": cpu}


def _prepare(folder: Path) -> None:
    from tests.nirvana_deploy.stored_runs import make_plan

    (folder / "config-only").mkdir()
    (folder / "config-only" / "config.json").write_text(json.dumps(_CONFIG))
    make_plan(0.5).save(folder / "plan.json")


if __name__ == "__main__":
    main()
