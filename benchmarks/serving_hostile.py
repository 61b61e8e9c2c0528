"""Hostile requests to `nirvana serve`, while other clients go on asking.

    python benchmarks/serving_hostile.py --work DIR

Lengths, numbers, headers, bodies and texts that are meant to do harm. In the background one client
asks, and compares every answer with ONNX Runtime's. Writes
`benchmarks/results/serving_hostile.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from figures import describe_hardware, make_bar
from serving import list_descendants
from serving_load import TOLERANCE, Ask, make_asks
from serving_models import VOCABULARY, make_packages

from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.triton.triton_package import package_triton
from nirvana_deploy.serving.triton.tritonserver import find_free_ports
from profiles.measuring.environment import find_version

RESULTS = Path(__file__).parent / "results" / "serving_hostile.json"
MODEL = "minilm"
INFER = f"/v2/models/{MODEL}/infer"
NAMES = ("input_ids", "attention_mask", "token_type_ids")
NUM_DRIPS = 300
MAX_FILES = 256


@dataclass
class Client:
    """Asks all the time as any client does, and counts what came.

    Attributes:
        outcomes: By phase, how often an answer was right, wrong, or none.
        longest: By phase, the seconds of the slowest right answer.
    """

    port: int
    asks: list[Ask]
    phase: str = "start"
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        number = 0
        while not stop.wait(0.3):
            phase, start = self.phase, time.monotonic()
            outcome = self._ask(self.asks[number % len(self.asks)])
            self.outcomes.setdefault(phase, Counter())[outcome] += 1
            if outcome == "right":
                took = time.monotonic() - start
                self.longest[phase] = max(self.longest.get(phase, 0.0), took)
            number += 1

    def _ask(self, ask: Ask) -> str:
        try:
            status, content = post(self.port, ask.body)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        if status != 200:
            return f"HTTP {status}"
        (output,) = json.loads(content)["outputs"]
        came = np.reshape(output["data"], output["shape"])
        return "right" if np.allclose(came, ask.logits, atol=TOLERANCE) else "wrong"


def post(port: int, body: bytes, path: str = INFER, timeout: float = 90) -> tuple[int, bytes]:
    """Send a body and return the status and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        with contextlib.suppress(BrokenPipeError):  # the answer is there all the same
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def make_body(rows: int, length: int, **changes: Any) -> bytes:
    """Return a request of ones, with `changes` by input."""
    inputs = [
        {"name": name, "shape": [rows, length], "datatype": "INT64", "data": [1] * (rows * length)}
        for name in NAMES
    ]
    for each in inputs:
        each.update(changes.get(str(each["name"]), {}))
    return json.dumps({"inputs": inputs, **changes.get("body", {})}).encode()


def list_wrong_requests() -> dict[str, bytes]:
    """Return requests that no client should send, by what is wrong with them."""
    ids = {
        "negative id": [-1, 1],
        "id counted from the end": [-VOCABULARY, 1],
        "id beyond the table": [10**6, 1],
        "boolean ids": [True, False],
        "ids as text": ["1", "2"],
        "fractions": [1.5, 2.0],
    }
    bodies = {what: make_body(1, 2, input_ids={"data": data}) for what, data in ids.items()}
    for value in (7, -1, True):
        mask = {"data": [value, 1]}
        bodies[f"mask of {value}"] = make_body(1, 2, attention_mask=mask)
    bodies["segment 5"] = make_body(1, 2, token_type_ids={"data": [5, 0]})
    bodies["unknown output"] = make_body(1, 2, body={"outputs": [{"name": "zzz"}]})
    bodies["unknown input"] = make_body(1, 2, token_type_ids={"name": "zzz"})
    bodies["length 513"] = make_body(1, 513)
    for length in (600, 5000, 20_000):
        bodies[f"32 rows of {length}"] = make_body(32, length)
    return bodies


def read_peak(pid: int) -> int:
    """Return the most memory that a process ever held, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def send_wrong(port: int, pid: int) -> dict[str, Any]:
    """Send wrong requests, bodies that are too large, and ids that no header holds."""
    (worker,) = find_workers(pid)
    before = read_peak(worker)
    statuses = {what: post(port, body)[0] for what, body in list_wrong_requests().items()}
    large = b'{"inputs":"' + b"x" * 10_000_000 + b'"}'
    ids = ("a\r\nX-Evil: 1", "a\0b", "\u65e5\u672c", "x" * 100_000)
    answered = [post(port, make_body(1, 2, body={"id": each}))[0] for each in ids]
    (same,) = find_workers(pid)
    return {
        "statuses": statuses,
        "body_too_large": post(port, large)[0],
        "ids_answered": answered,
        "worker_survived": same == worker,
        "worker_peak_bytes": {"before": before, "after": read_peak(same)},
    }


def find_workers(pid: int) -> list[int]:
    """Return the worker processes of a server."""
    return [child for child, line in list_descendants(pid).items() if b"spawn_main" in line]


def drip(port: int, head: bytes, count: int, seconds: float) -> dict[str, Any]:
    """Send a byte every 2 seconds on many connections and count those that the server ended."""
    sockets = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            sockets.append(socket.create_connection(("127.0.0.1", port), 5))
            sockets[-1].sendall(head)
    ended: dict[int, float] = {}
    start = time.monotonic()
    while time.monotonic() - start < seconds and len(ended) < len(sockets):
        time.sleep(2)
        for number, each in enumerate(sockets):
            if number not in ended and not _is_open(each):
                ended[number] = time.monotonic() - start
    for each in sockets:
        each.close()
    last = max(ended.values(), default=0.0)
    return {"opened": len(sockets), "ended": len(ended), "last_ended_after_seconds": round(last, 1)}


def _is_open(each: socket.socket) -> bool:
    try:
        each.sendall(b"a")
        each.settimeout(0.001)
        return each.recv(4096) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def send_long_texts(port: int, chars: int) -> dict[str, Any]:
    """Send three long texts at once, and a short one behind them."""
    path = f"/v2/models/{MODEL}_text/infer"

    def make(text: str) -> bytes:
        row = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        return json.dumps({"inputs": [row]}).encode()

    statuses: list[int] = []
    long = make("word " * (chars // 5))
    jobs = [
        threading.Thread(target=lambda: statuses.append(post(port, long, path)[0]))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    time.sleep(0.5)
    start = time.monotonic()
    status = post(port, make("a good film"), path)[0]
    waited = time.monotonic() - start
    for job in jobs:
        job.join()
    return {"long": statuses, "short": status, "short_waited_seconds": round(waited, 2)}


def ask_wrongly_by_grpc(port: int) -> dict[str, str]:
    """Return the status of calls that a client should not make, by what is wrong."""
    import grpc
    from tritonclient import grpc as client
    from tritonclient.grpc import service_pb2

    tensors = []
    for name in NAMES:
        tensors.append(client.InferInput(name, [1, 2], "INT64"))
        tensors[-1].set_data_from_numpy(np.ones((1, 2), np.int64))
    tensors[0]._raw_content = tensors[0]._raw_content[:-3]
    statuses = {}
    with client.InferenceServerClient(f"127.0.0.1:{port}") as server:
        calls: dict[str, Callable[[], Any]] = {
            "raw data cut off": lambda: server.infer(MODEL, tensors),
            "load": lambda: server.load_model(MODEL),
            "unload": lambda: server.unload_model(MODEL),
            "unknown model": lambda: server.get_model_metadata("../../etc/passwd"),
        }
        for what, call in calls.items():
            try:
                call()
                statuses[what] = "OK"
            except Exception as error:  # tritonclient's own, which names the code
                status = getattr(error, "status", None)
                statuses[what] = str(status()) if status else type(error).__name__
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        request = service_pb2.ModelInferRequest(model_name="m" * 9_000_000).SerializeToString()
        try:
            infer(request, timeout=30)
            statuses["9 MB message"] = "OK"
        except grpc.RpcError as error:
            statuses["9 MB message"] = str(error.code())
    return statuses


@contextlib.contextmanager
def run_server(package: Path, log: Path) -> Iterator[tuple[int, int, int]]:
    """Run the server with room for few files; give its process and its ports."""
    http_port, grpc_port, metrics = find_free_ports(3)
    command = [sys.executable, "-m", "nirvana_deploy", "serve", str(package)]
    ports = [f"--http_port={http_port}", f"--grpc_port={grpc_port}", f"--metrics_port={metrics}"]
    limited = ["bash", "-c", f'ulimit -n {MAX_FILES}; exec "$@"', "bash", *command, *ports]
    with (
        log.open("w") as file,
        subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=file, text=True) as process,
    ):
        assert process.stdout is not None
        if not any(line.startswith("Ready: ") for line in iter(process.stdout.readline, "")):
            raise RuntimeError(f"nirvana serve ended before it was ready: {log.read_text()}")
        yield process.pid, http_port, grpc_port
        process.send_signal(signal.SIGTERM)


def examine(package: Path, asks: list[Ask], log: Path) -> dict[str, Any]:
    """Send everything, phase by phase, and return what came."""
    found: dict[str, Any] = {}
    with run_server(package, log) as (pid, port, grpc_port):
        client, stop = Client(port, asks), threading.Event()
        asking = threading.Thread(target=client.run, args=(stop,))
        asking.start()
        header = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nX-"
        body = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n".encode()
        phases: dict[str, Callable[[], Any]] = {
            "wrong": lambda: send_wrong(port, pid),
            "headers": lambda: drip(port, header, NUM_DRIPS, 60),
            "bodies": lambda: drip(port, body, 20, 60),
            "texts that are refused": lambda: send_long_texts(port, 7_000_000),
            "texts that are taken": lambda: send_long_texts(port, 1_000_000),
            "grpc": lambda: ask_wrongly_by_grpc(grpc_port),
            "end": lambda: time.sleep(5),
        }
        for client.phase, run in phases.items():
            print(client.phase, flush=True)
            found[client.phase] = run()
            print(found[client.phase], flush=True)
        stop.set()
        asking.join()
    found["other_clients"] = {name: dict(count) for name, count in client.outcomes.items()}
    found["slowest_right_answer_seconds"] = {n: round(s, 2) for n, s in client.longest.items()}
    found["log_bytes"] = log.stat().st_size
    return found


def list_bars(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare what came with what a server must do."""
    wrong, peak = found["wrong"], found["wrong"]["worker_peak_bytes"]
    outcomes: Counter[str] = sum(map(Counter, found["other_clients"].values()), Counter())
    header_seconds = found["headers"]["last_ended_after_seconds"]
    texts = [found[f"texts that are {what}"] for what in ("refused", "taken")]
    text_seconds = max(each["short_waited_seconds"] for each in texts)
    missed = outcomes.total() - outcomes["right"] - outcomes["wrong"]
    refused = sum(status == 400 for status in wrong["statuses"].values())
    unseen = sum(status not in (200, 400) for status in wrong["ids_answered"])
    codes = found["grpc"].values()
    unclear = sum(code.endswith((".OK", ".INTERNAL", ".UNKNOWN")) or code == "OK" for code in codes)
    drips = [found[name]["opened"] - found[name]["ended"] for name in ("headers", "bodies")]
    rows: list[tuple[str, float, float, str]] = [
        ("wrong requests refused with 400, share", refused / len(wrong["statuses"]), 1, "at_least"),
        ("10 MB body: status that the client reads", wrong["body_too_large"], 413, "at_least"),
        ("request ids that end without an answer", unseen, 0, "at_most"),
        ("worker's peak memory after over before", peak["after"] / peak["before"], 1.5, "at_most"),
        ("dripped headers left open", drips[0], 0, "at_most"),
        ("seconds to the last one's end", header_seconds, 30, "at_most"),
        ("dripped bodies left open", drips[1], 0, "at_most"),
        ("short text behind three long ones, seconds", text_seconds, 5, "at_most"),
        ("gRPC calls with an unclear status", unclear, 0, "at_most"),
        ("other clients: right answers", outcomes["right"], 50, "at_least"),
        ("other clients: wrong answers", outcomes["wrong"], 0, "at_most"),
        ("other clients: no answer", missed, 0, "at_most"),
        ("log written, bytes", found["log_bytes"], 100_000, "at_most"),
    ]
    return [make_bar(*row) for row in rows]


def main() -> None:
    """Run all of it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and packages")
    args = parser.parse_args()
    if not (args.work / "pruned-onnx" / "model.onnx").is_file():
        make_packages(args.work, MODEL)
    package = args.work / "hostile-package"
    shutil.rmtree(package, ignore_errors=True)
    onnx = args.work / "pruned-onnx" / "model.onnx"
    sources = OnnxSources(onnx=onnx, checkpoint=args.work / "pruned")
    package_triton(sources, package, PackageConfig(model_name=MODEL))
    load = os.getloadavg()[0]
    found = examine(package, make_asks(onnx, VOCABULARY), args.work / "serve.log")
    names = ("torch", "onnxruntime", "uvicorn", "starlette", "grpcio", "tritonclient")
    result = {
        "benchmark": "serving_hostile",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "load_average": {"start": load, "end": os.getloadavg()[0]},
        "versions": {name: find_version(name) for name in names},
        "data": "MiniLM-L6's weights, pruned, with a fresh head; room for 256 open files",
        **found,
        "bars": list_bars(found),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for bar in result["bars"]:
        print("met " if bar["met"] else "MISSED", bar["name"], bar["value"])


if __name__ == "__main__":
    main()
