"""Runs the quickstart as a user would, three seeds, and holds it against what it must reach.

    python benchmarks/quickstart.py [--seeds 0 1 2] [--skip-tests] [--data ../shared/data/...]
    python benchmarks/quickstart.py --only-tests      # time the test suite anew, keep the rest

Writes benchmarks/results/quickstart.json. Accuracy is measured on all validation rows of the full
debian-descriptions set where `--data` has it, and on the embedded rows otherwise. Seeds that are
done are taken up again from --work: give another folder after a change to the code.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import describe_hardware, make_bar
from operator_times import compare_operator_times

ROOT = Path(__file__).parent.parent
FULL_DATA = ROOT.parent / "shared" / "data" / "debian-descriptions"
RESULT = ROOT / "benchmarks" / "results" / "quickstart.json"


def main() -> None:
    """Run, measure, write."""
    arguments = _parse_arguments()
    if arguments.only_tests:
        _write(retime_tests(json.loads(RESULT.read_text())))
        return
    import_seconds = time_import()
    runs = [run_seed(seed, arguments.work, arguments.data) for seed in arguments.seeds]
    tests = None if arguments.skip_tests else time_tests()
    exported = arguments.work / f"seed-{arguments.seeds[0]}" / "export"
    result = {
        "benchmark": "quickstart",
        "date": min(run["date"] for run in runs),
        "hardware": describe_hardware(),
        "versions": runs[0]["environment"]["packages"],
        "accuracy_measured_on": runs[0]["accuracy_measured_on"],
        "runs": [{k: v for k, v in run.items() if k != "environment"} for run in runs],
        "import_seconds": import_seconds,
        "tests": tests,
        "operator_times": compare_operator_times(exported, batch=8, length=128),
        "bars": make_bars(runs, import_seconds, tests),
    }
    _write(result)


def _write(result: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for bar in result["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:.4g}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=FULL_DATA)
    parser.add_argument("--skip-tests", action="store_true", help="do not time the test suite")
    parser.add_argument("--only-tests", action="store_true", help="time nothing but the tests")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "quickstart")
    return parser.parse_args()


def run_seed(seed: int, work: Path, data: Path) -> dict[str, Any]:
    """Run the whole recipe in a process of its own; return its figures."""
    work.mkdir(parents=True, exist_ok=True)
    stored = work / f"seed-{seed}.json"
    if stored.is_file():
        return dict(json.loads(stored.read_text()))
    out = work / f"seed-{seed}"
    if out.exists():
        sys.exit(f"{out} holds an unfinished run, whose time would be wrong. Remove it first.")
    command = [sys.executable, "-m", "nirvana_deploy", "deploy", "recipes/quickstart.yaml"]
    command += ["--out", str(out), "--baseline.seed", str(seed), "--prune.seed", str(seed)]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status != 0:
        sys.exit(f"The run of seed {seed} failed.")
    figures = {
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "wall_seconds": seconds,
        "peak_memory_gb": usage.ru_maxrss * 1024 / 1e9,
        **read_figures(out),
        **measure_accuracy(out, data),
    }
    stored.write_text(json.dumps(figures, indent=1))
    return figures


def read_figures(out: Path) -> dict[str, Any]:
    """Collect what the run itself measured."""
    stages = {p.parent.name: json.loads(p.read_text()) for p in out.glob("*/manifest.json")}
    results = {name: manifest["result"] for name, manifest in stages.items()}
    prune, profile, engine = results["prune"], results["profile"], results["build"]
    cases = [
        {
            "batch": case["batch"],
            "length": case["length"],
            "dense_median_ms": case["dense"]["median_ms"],
            "pruned_median_ms": case["pruned"]["median_ms"],
            "speedup": case["speedup"],
            "stationary": case["stationary"],
        }
        for case in profile["cases"]
    ]
    return {
        "stage_seconds": {name: manifest["seconds"] for name, manifest in stages.items()},
        "kept_fraction": prune["budget"]["kept_fraction"],
        "undecided_fraction": prune["undecided_fraction"],
        "kept_heads": [len(layer["kept_heads"]) for layer in prune["layers"]],
        "kept_neurons": [layer["num_kept_neurons"] for layer in prune["layers"]],
        "embedded_validation": {
            name: {key: prune[name][key] for key in ("accuracy", "macro_f1", "loss")}
            for name in ("dense", "pruned")
        },
        "onnx_max_abs_difference": results["export"]["pruned"]["max_abs_difference"],
        "engine": {
            k: engine.get(k) for k in ("status", "flavour", "version", "num_fused_attentions")
        },
        "latency": cases,
        "environment": profile["environment"],
    }


def measure_accuracy(out: Path, data: Path) -> dict[str, Any]:
    """Score the dense and the pruned checkpoint on every validation row."""
    import pandas as pd
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from pruning.checkpoints.checkpoint import load_pruned
    from pruning.tasks.data_config import DataConfig
    from pruning.tasks.evaluation import evaluate
    from pruning.tasks.text_data import load_text

    tokenizer = AutoTokenizer.from_pretrained(out / "prune" / "checkpoint")
    text = load_text(DataConfig(), tokenizer)
    rows, where = text.validation, "embedded validation rows"
    if (data / "validation.parquet").is_file():
        names = json.loads((data / "labels.json").read_text())
        frame = pd.read_parquet(data / "validation.parquet")
        frame = frame[frame.label >= 0]
        encoded = tokenizer(frame.description.tolist(), truncation=True, max_length=64)
        labels = [text.labels.index(names[label]) for label in frame.label]
        rows = Dataset.from_dict({**encoded, "labels": labels})
        where = "all validation rows of debian-descriptions"
    dense = AutoModelForSequenceClassification.from_pretrained(out / "baseline" / "checkpoint")
    pruned = load_pruned(out / "prune" / "checkpoint")
    return {
        "accuracy_measured_on": f"{len(rows)} {where}",
        "dense": evaluate(dense, rows, tokenizer, text.task),
        "pruned": evaluate(pruned, rows, tokenizer, text.task),
    }


def time_import(repeats: int = 7) -> float:
    """Return the median seconds that `import nirvana_deploy` takes in a new interpreter."""
    code = (
        "import time; start = time.perf_counter(); import nirvana_deploy; "
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    seconds = [float(subprocess.check_output(command, cwd=ROOT)) for _ in range(repeats)]
    return statistics.median(seconds)


def time_tests() -> dict[str, Any]:
    """Run the test suite; return its wall time and its closing line."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    summary = done.stdout.strip().splitlines()[-1]
    if done.returncode != 0:
        sys.exit(f"The test suite failed, so its time says nothing: {summary}")
    return {
        "wall_seconds": seconds,
        "summary": summary,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
    }


def retime_tests(result: dict[str, Any]) -> dict[str, Any]:
    """Return a stored result with the time that the test suite takes now."""
    tests = time_tests()
    bar = make_bar("test suite (minutes)", tests["wall_seconds"] / 60, 10, "at_most")
    bars = [bar if old["name"] == bar["name"] else old for old in result["bars"]]
    return {**result, "tests": tests, "bars": bars}


def make_bars(
    runs: list[dict[str, Any]], import_seconds: float, tests: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Hold each figure against what it must reach."""
    drops = [100 * (run["dense"]["accuracy"] - run["pruned"]["accuracy"]) for run in runs]
    ratios = [c["speedup"]["ratio"] for run in runs for c in run["latency"] if c["batch"] == 8]
    bars = [
        ("demo wall time, slowest seed (minutes)", max(r["wall_seconds"] for r in runs) / 60, 12),
        ("peak memory, highest seed (GB)", max(r["peak_memory_gb"] for r in runs), 3),
        ("accuracy lost, mean of seeds (points)", statistics.mean(drops), 1.0),
        ("import nirvana_deploy, median (seconds)", import_seconds, 0.3),
    ]
    if tests is not None:
        bars.append(("test suite (minutes)", tests["wall_seconds"] / 60, 10))
    return [
        *(make_bar(name, value, target, "at_most") for name, value, target in bars),
        make_bar(
            "speed-up at batch 8, length 128, ONNX Runtime CPU, mean of seeds",
            statistics.mean(ratios),
            1.6,
            "at_least",
        ),
    ]


if __name__ == "__main__":
    main()
