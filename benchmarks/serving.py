"""Real servers under load and faults: Triton, and `nirvana serve`; and GenAI's tokens a second.

    NIRVANA_TRITON=DIR python benchmarks/serving.py --work DIR [--seconds 600] [--rate 6]

MiniLM-L6 with a fresh head, dense and with half of its heads and neurons, as two versions. Poisson
load of mixed lengths; in the middle, a worker is killed with SIGKILL; then a thousand malformed
requests. Writes `benchmarks/results/serving.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import describe_hardware, make_bar
from serving_decoder import measure_genai
from serving_faults import send_malformed
from serving_load import Tally, make_asks, run_load, send
from serving_models import VOCABULARY, make_packages

from nirvana_deploy.serving.triton.tritonserver import (
    find_free_ports,
    find_tritonserver,
    run_tritonserver,
)
from profiles.measuring.environment import find_version

RESULTS = Path(__file__).parent / "results" / "serving.json"
MODEL = "minilm"
NUM_MALFORMED = 1000


@dataclass
class Target:
    """A running server: where it is, and the process whose workers may be killed."""

    name: str
    port: int
    pid: int
    worker: bytes
    num_restarts: int = 0

    @property
    def infer(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}/v2/models/{MODEL}/infer"

    def list_workers(self) -> list[int]:
        """Return the processes below it that run the model."""
        return [pid for pid, line in list_descendants(self.pid).items() if self.worker in line]

    def is_ready(self) -> bool:
        """Ask the server itself."""
        url = f"http://127.0.0.1:{self.port}/v2/health/ready"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
        return False


def list_descendants(pid: int) -> dict[int, bytes]:
    """Return the command lines of a process's children, and theirs."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = (int(fields[1]), (path / "cmdline").read_bytes())
    found: dict[int, bytes] = {}
    wanted = {pid}
    while wanted:
        below = {child: line for child, (parent, line) in parents.items() if parent in wanted}
        found.update(below)
        wanted = set(below)
    return found


def count_bytes(pid: int) -> int:
    """Return the resident memory of a process and all below it."""
    total = 0
    for each in (pid, *list_descendants(pid)):
        with contextlib.suppress(OSError):
            pages = Path(f"/proc/{each}/statm").read_text().split()[1]
            total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total


@contextlib.contextmanager
def run_triton(package: Path) -> Iterator[Target]:
    """Run Triton as an orchestrator does: started again when a sample request fails twice.

    Its health endpoints say ready while a worker is dead.
    """
    copy = package.with_name("triton-running")  # the Python backend leaves files there
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(package, copy)
    sample = (package / "request.json").read_bytes()
    ports = find_free_ports(3)
    # The stub of the model: its command line names the model's own file.
    target = Target("triton", ports[0], 0, f"/{MODEL}/2/model.py".encode())
    stop, started = threading.Event(), threading.Event()

    def supervise() -> None:
        while not stop.is_set():
            with run_tritonserver(
                copy / "model_repository", find_tritonserver(), ports=ports
            ) as server:
                target.pid = server.process.pid
                started.set()
                failures = 0
                while failures < 2 and not stop.wait(2):
                    failures = 0 if is_answered(target, sample) else failures + 1
            target.num_restarts += not stop.is_set()

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    started.wait()
    yield target
    stop.set()
    supervisor.join()


def is_answered(target: Target, sample: bytes) -> bool:
    """Send a sample request, as a probe does."""
    asked = urllib.request.Request(target.infer, sample, {"Content-Type": "application/json"})
    with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@contextlib.contextmanager
def run_serve(package: Path) -> Iterator[Target]:
    """Run `nirvana serve`, which starts its worker again by itself."""
    http, grpc, metrics = find_free_ports(3)
    command = [sys.executable, "-m", "nirvana_deploy", "serve", str(package)]
    ports = [f"--http_port={http}", f"--grpc_port={grpc}", f"--metrics_port={metrics}"]
    with subprocess.Popen([*command, *ports], stderr=subprocess.DEVNULL) as process:
        target = Target("nirvana serve", http, process.pid, b"spawn_main")
        while not target.is_ready():
            if process.poll() is not None:
                raise RuntimeError("nirvana serve ended before it was ready")
            time.sleep(0.2)
        yield target
        process.send_signal(signal.SIGTERM)


def examine(target: Target, pruned_onnx: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Load, kill, load on; then the malformed requests; then see that it still answers rightly."""
    asks = make_asks(pruned_onnx, VOCABULARY)
    for ask in asks[:10]:
        send(target.infer, ask, Tally(), time.monotonic())
    before = count_bytes(target.pid)
    killed: list[int] = []

    def kill() -> None:
        killed.extend(target.list_workers()[:1])
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    load = run_load(target.infer, asks, rate=rate, seconds=seconds, at_half=kill)
    after = count_bytes(target.pid)
    restarts = target.num_restarts
    malformed = send_malformed("127.0.0.1", target.port, MODEL, NUM_MALFORMED)
    deadline = time.monotonic() + 60
    while not target.is_ready() and time.monotonic() < deadline:
        time.sleep(0.5)
    again = Tally()
    for ask in asks:
        send(target.infer, ask, again, time.monotonic())
    return {
        "load": load,
        "workers_killed": len(killed),
        "restarts_under_load": restarts,
        "restarts_under_malformed_requests": target.num_restarts - restarts,
        "malformed": malformed,
        "ready_at_the_end": target.is_ready(),
        "answers_at_the_end": dict(again.outcomes),
        "memory_bytes": {"before": before, "after_load": after, "end": count_bytes(target.pid)},
    }


def list_bars(name: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures against what a server must do."""
    outcomes, end = figures["load"]["outcomes"], figures["answers_at_the_end"]
    malformed = figures["malformed"]
    hung = malformed["outcomes"].get("timeout", 0) + malformed["outcomes"].get("HTTP 200", 0)
    memory = figures["memory_bytes"]
    growth = memory["end"] / memory["before"]
    return [
        make_bar(f"{name}: wrong answers", outcomes.get("wrong", 0), 0, "at_most"),
        make_bar(f"{name}: requests that hung", outcomes.get("hang", 0), 0, "at_most"),
        make_bar(f"{name}: workers killed", figures["workers_killed"], 1, "at_least"),
        make_bar(
            f"{name}: seconds to the first right answer after the kill",
            figures["load"]["first_right_after_kill_seconds"] or 999.0,
            60,
            "at_most",
        ),
        make_bar(
            f"{name}: server died of malformed requests",
            figures["restarts_under_malformed_requests"],
            0,
            "at_most",
        ),
        make_bar(f"{name}: malformed requests sent", malformed["sent"], 1000, "at_least"),
        make_bar(f"{name}: malformed taken or hung", hung, 0, "at_most"),
        make_bar(f"{name}: right at the end", end.get("right", 0) / 60, 1.0, "at_least"),
        make_bar(f"{name}: memory at the end over before", growth, 1.5, "at_most"),
    ]


def main() -> None:
    """Run all of it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and packages")
    parser.add_argument("--seconds", type=float, default=600.0, help="of load on each server")
    parser.add_argument("--rate", type=float, default=6.0, help="requests a second")
    args = parser.parse_args()
    package, pruned_onnx = make_packages(args.work, MODEL)
    names = (
        "torch",
        "transformers",
        "onnxruntime",
        "onnxruntime-genai",
        "starlette",
        "uvicorn",
        "grpcio",
        "hypothesis",
    )
    result: dict[str, Any] = {
        "benchmark": "serving",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "load_average_at_start": os.getloadavg()[0],
        "versions": {name: find_version(name) for name in names},
        "triton": "tritonserver 2.51.0 of nvidia-pytriton 0.7.0, Python backend",
        "data": "random tokens; MiniLM-L6's weights with a fresh head",
        "servers": {},
        "bars": [],
    }
    for run in (run_triton, run_serve):
        with run(package) as target:
            figures = examine(target, pruned_onnx, args.rate, args.seconds)
        result["servers"][target.name] = figures
        result["bars"] += list_bars(target.name, figures)
        print(target.name, json.dumps(figures, indent=1), flush=True)
    result["genai"] = measure_genai(args.work)
    bar = make_bar(
        "GenAI: pruned over dense, tokens a second", result["genai"]["ratio"], 1.0, "at_least"
    )
    result["bars"].append(bar)
    result["load_average_at_end"] = os.getloadavg()[0]
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    shutil.rmtree(args.work / "packages", ignore_errors=True)
    for bar in result["bars"]:
        print("met " if bar["met"] else "MISSED", bar["name"], bar["value"])


if __name__ == "__main__":
    main()
