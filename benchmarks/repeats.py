"""Repeats tests on a machine that is under load, and keeps each failure with its traceback.

python benchmarks/repeats.py --times 20 [--minutes 60] [TEST ...]

Without paths: the tests of servers, killed processes and several processes. Each repetition is a
process of its own. The result is written after each; nothing is tried a second time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path[:0] = [str(Path(__file__).parent)]

from figures import describe_hardware, make_bar  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "repeats.json"
TESTS = (
    "tests/nirvana_deploy/serving/server",
    "tests/nirvana_deploy/serving/triton/test_triton_server.py",
    "tests/nirvana_deploy/serving/scale_out/test_compare_endpoints.py",
    "tests/nirvana_deploy/test_killed_run.py",
    "tests/nirvana_deploy/test_full_disk.py",
    "tests/field/test_served_scores.py",
    "tests/field/test_hostile_requests.py",
    "tests/field/test_machine_limits.py",
    "tests/field/test_killed_writes.py",
    "tests/field/test_resumed_curves.py",
    "tests/field/test_graphs_that_crash.py",
    "tests/pruning/gates/test_processes.py",
    "tests/pruning/gates/test_sharded_processes.py",
    "tests/benchmarks/test_serving_load.py",
)


def run_once(tests: Sequence[str]) -> dict[str, Any]:
    """Run the tests in a process of their own, and return how many there were and what failed."""
    load, started = os.getloadavg()[0], time.monotonic()
    told = run_pytest(Path(sys.executable), ["-p", "no:cacheprovider", *tests])
    seconds = round(time.monotonic() - started, 1)
    return {"load": round(load, 1), "seconds": seconds, **told}


def run_pytest(
    python: Path, arguments: Sequence[str], env: dict[str, str] | None = None, root: Path = ROOT
) -> dict[str, Any]:
    """Run pytest in `root`, and return how many tests there were and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ran = subprocess.run(
            [str(python), "-m", "pytest", "-q", f"--junitxml={report}", *arguments],
            cwd=root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        told = read_report(report) if report.is_file() else {"tests": 0, "failures": []}
    if ran.returncode and not told["failures"]:
        told["failures"].append({"test": "pytest", "traceback": ran.stdout[-4000:]})
    for failure in told["failures"]:
        failure["traceback"] = strip_places(failure["traceback"], root)
    return told


def strip_places(text: str, root: Path) -> str:
    """Leave out where on this machine the files are."""
    text = text.replace(f"{root}/", "").replace(str(root), ".")
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+(?=[\w.+-])", ".../", text)


def read_report(path: Path) -> dict[str, Any]:
    """Return the number of tests that ran, of those that were skipped, and each failure."""
    cases = list(ElementTree.parse(path).iter("testcase"))
    failures = [
        {
            "test": f"{case.get('classname')}::{case.get('name')}",
            "traceback": (found.text or found.get("message") or "")[-4000:],
        }
        for case in cases
        for found in (*case.findall("failure"), *case.findall("error"))
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"tests": len(cases) - skipped, "skipped": skipped, "failures": failures}


def summarize(tests: Sequence[str], times: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the repetitions, and compare the sums with their bars."""
    failures = sum(len(run["failures"]) for run in runs)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {name: version(name) for name in ("pytest", "torch", "onnxruntime")},
        "tests": list(tests),
        "runs": list(runs),
        "bars": [
            make_bar("repetitions", len(runs), times, "at_least"),
            make_bar("tests in each", min(run["tests"] for run in runs), 1, "at_least"),
            make_bar("failures", failures, 0, "at_most"),
        ],
    }


def main() -> None:
    """Repeat the tests and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=list(TESTS))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60, help="none is started after them")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    until, runs = time.monotonic() + 60 * args.minutes, []
    while len(runs) < args.times and (not runs or time.monotonic() < until):
        runs.append(run_once(args.tests))
        print(json.dumps(runs[-1]), flush=True)
        result = summarize(args.tests, args.times, runs)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
