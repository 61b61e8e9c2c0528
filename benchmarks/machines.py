"""Runs `make demo` and the test suite on other Pythons, processors and numbers of threads.

    python benchmarks/machines.py                       # all parts
    python benchmarks/machines.py pythons --python 3.13
    python benchmarks/machines.py processors
    python benchmarks/machines.py load --busy 4

Each run is written when it ends. A run that is there is not made again, also if it failed: `--anew`
makes the named ones again.
What another processor would compute is had by telling torch, oneDNN and MKL to use no more than
its instructions. A processor cannot be told to use those that it lacks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

from figures import describe_hardware, make_bar  # noqa: E402
from repeats import run_pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "machines.json"
PARTS = ("pythons", "processors", "load")
PYTHONS = ("3.12", "3.13", "3.14")
# Each variable once at its least and once at the most that a processor of ten years ago has.
PROCESSORS: tuple[dict[str, str], ...] = (
    {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "2",
    },
    {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX",
        "MKL_CBWR": "SSE4_2",
        "OMP_NUM_THREADS": "4",
    },
    {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OMP_NUM_THREADS": "1",
    },
    {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_CBWR": "AVX512",
        "OMP_NUM_THREADS": "1",
    },
)


def run_tests(python: Path, settings: dict[str, str], root: Path = ROOT) -> dict[str, Any]:
    """Run the fast tests whole, in a process a core, and return their number and each failure."""
    env = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env |= settings
    env["PATH"] = os.pathsep.join((str(python.parent), env["PATH"]))
    flags = ["--numprocesses=logical", "--dist=loadfile", "--no-loadscope-reorder"]
    return run_pytest(python, ["-m", "not slow", *flags], env, root)


def run(command: list[str], root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, with what it writes in one text."""
    return subprocess.run(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def find_python(name: str) -> str | None:
    """Return the interpreter of a Python version: on the path, or of pyenv."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (*sorted(folder.glob(f"{name}.*/bin/python")), shutil.which(f"python{name}")):
        if path is not None and run([str(path), "-c", "import venv"]).returncode == 0:
            return str(path)
    return None


def run_on_python(name: str) -> dict[str, Any]:
    """Run the demo and the fast tests in a fresh clone under a Python, and return what failed."""
    interpreter = find_python(name)
    if interpreter is None:
        return {"skipped": f"no Python {name} here"}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        env = clone / ".venv"
        told: dict[str, Any] = {}
        for target in ("environments", "demo"):
            started = time.monotonic()
            ran = run(["make", target, f"PYTHON={interpreter}"], root=clone)
            told[f"make {target}"] = {
                "seconds": round(time.monotonic() - started),
                "rc": ran.returncode,
            }
            if ran.returncode:
                failure = {"test": f"make {target}", "traceback": ran.stdout[-4000:]}
                return {**told, "tests": 0, "failures": [failure]}
        python = env / "bin" / "python"
        packages = "torch", "transformers", "onnx", "onnxruntime"
        code = f"from importlib.metadata import version as v; print(*map(v, {packages}))"
        told["versions"] = dict(
            zip(packages, run([str(python), "-c", code]).stdout.split(), strict=False)
        )
        return {**told, **run_tests(python, {"NIRVANA_TRITON": str(env / "triton")}, clone)}


def knows_instructions(settings: dict[str, str]) -> bool:
    """Return whether this processor has the instructions that the settings name."""
    if settings["ATEN_CPU_CAPABILITY"] != "avx512":
        return True
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "avx512f" in cpuinfo.read_text()


@contextmanager
def keep_busy(processes: int) -> Iterator[None]:
    """Keep as many processes computing while the block runs."""
    started = [multiprocessing.Process(target=compute, daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()


def compute() -> None:
    """Compute for ever."""
    while True:
        sum(range(1_000_000))


def list_runs(args: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """Give the part and the name of each run, and what makes it."""
    here = Path(sys.executable)
    if "pythons" in args.parts:
        for name in args.python:
            yield "pythons", f"Python {name}", lambda name=name: run_on_python(name)
    if "processors" in args.parts:
        for settings in PROCESSORS:
            name = " ".join(f"{key}={value}" for key, value in settings.items())
            if knows_instructions(settings):
                yield "processors", name, lambda settings=settings: run_tests(here, settings)
            else:
                yield "processors", name, lambda: {"skipped": "this processor lacks AVX-512"}
    if "load" in args.parts:
        for number in range(1, args.times + 1):
            with keep_busy(args.busy):
                yield (
                    "load",
                    f"run {number} beside {args.busy} busy processes",
                    lambda: run_tests(here, {}),
                )


def summarize(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the runs of each part with their bars."""
    bars = []
    least = {"pythons": 3, "processors": 4, "load": 3}
    for part, target in least.items():
        made = [run for run in runs.values() if run["part"] == part and "failures" in run]
        bars.append(make_bar(f"{part}: whole runs", len(made), target, "at_least"))
        failures = sum(len(run["failures"]) for run in made)
        if made:
            bars.append(make_bar(f"{part}: failures", failures, 0, "at_most"))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {name: version(name) for name in ("pytest", "torch", "onnxruntime")},
        "runs": runs,
        "bars": bars,
    }


def main() -> None:
    """Make the runs that are not there yet, and write each as it ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--python", nargs="+", default=list(PYTHONS))
    parser.add_argument("--busy", type=int, default=4, help="processes beside the tests")
    parser.add_argument("--times", type=int, default=3, help="runs under load")
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    runs = json.loads(args.out.read_text())["runs"] if args.out.is_file() else {}
    for part, name, make_run in list_runs(args):
        if name in runs and not args.anew:
            continue
        load, started = os.getloadavg()[0], time.monotonic()
        told = make_run()
        seconds = round(time.monotonic() - started)
        runs[name] = {"part": part, "load": round(load, 1), "seconds": seconds, **told}
        print(name, json.dumps(runs[name]), flush=True)
        args.out.write_text(json.dumps(summarize(runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
