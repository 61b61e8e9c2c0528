"""Poisson load on a server; every answer is held against the right one."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128)
ROWS = (1, 1, 1, 2, 4)
TIMEOUT_SECONDS = 10.0
# Two sessions of one graph; a batch sums in another order than a row does.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Ask:
    """A request's body, and the logits that are right."""

    body: bytes
    logits: np.ndarray


@dataclass
class Tally:
    """What came of the requests; latencies are from when a request was due."""

    latencies_ms: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    right_at: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: str, latency_ms: float, error: str = "") -> None:
        """Count one answer."""
        with self.lock:
            self.outcomes[outcome] += 1
            if outcome == "right":
                self.latencies_ms.append(latency_ms)
                self.right_at.append(time.monotonic())
            if error:
                self.errors[error[:120]] += 1


def make_asks(onnx_path: Path, vocabulary: int, count: int = 60) -> list[Ask]:
    """Draw requests of mixed rows and lengths, and run each here."""
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    draw = np.random.default_rng(0)
    asks = []
    for number in range(count):
        shape = (ROWS[number % len(ROWS)], LENGTHS[number % len(LENGTHS)])
        known = {
            "input_ids": draw.integers(1000, vocabulary, shape),
            "attention_mask": np.ones(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
        feeds = {name: known[name] for name in names}
        (logits,) = session.run(["logits"], feeds)
        inputs = [
            {"name": n, "shape": shape, "datatype": "INT64", "data": a.reshape(-1).tolist()}
            for n, a in feeds.items()
        ]
        asks.append(Ask(json.dumps({"inputs": inputs}).encode(), logits))
    return asks


def send(url: str, ask: Ask, tally: Tally, due: float) -> None:
    """Ask once, without a retry, and count what came."""
    asked = urllib.request.Request(url, ask.body, {"Content-Type": "application/json"})
    started = time.monotonic()
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS) as answer:
            outputs = json.load(answer)["outputs"]
        came = np.reshape(outputs[0]["data"], outputs[0]["shape"])
        is_right = came.shape == ask.logits.shape and np.abs(came - ask.logits).max() <= TOLERANCE
        outcome, error = ("right" if is_right else "wrong"), ""
    except urllib.error.HTTPError as failure:
        outcome, error = f"HTTP {failure.code}", failure.read().decode(errors="replace")
    except (OSError, ValueError) as failure:
        hung = isinstance(failure, TimeoutError) or "timed out" in str(failure)
        outcome, error = ("timeout" if hung else "connection error"), repr(failure)
    now = time.monotonic()
    if now - started > TIMEOUT_SECONDS + 1:
        outcome = "hang"
    tally.add(outcome, 1000 * (now - due), error)


def run_load(
    url: str, asks: list[Ask], *, rate: float, seconds: float, at_half: Callable[[], None]
) -> dict[str, Any]:
    """Send requests at `rate` a second, at exponential distances; call `at_half` in the middle."""
    luck = random.Random(0)
    tally = Tally()
    start = due = time.monotonic()
    sent, half = 0, None
    with ThreadPoolExecutor(128) as pool:
        while due < start + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            if half is None and due > start + seconds / 2:
                half = time.monotonic()
                at_half()
            pool.submit(send, url, luck.choice(asks), tally, due)
            sent += 1
            due += luck.expovariate(rate)
    # What was in work when the worker died may have been answered just before.
    later = [at for at in tally.right_at if half is not None and at > half + 0.2]
    return {
        "asked_per_second": rate,
        "seconds": seconds,
        "sent": sent,
        "first_right_after_kill_seconds": round(min(later) - half, 2) if half and later else None,
        "right_in_the_last_tenth": sum(at > start + 0.9 * seconds for at in tally.right_at),
        **summarise(tally),
    }


def summarise(tally: Tally) -> dict[str, Any]:
    """Return counts and quantiles; a quantile needs its floor of samples."""
    times = sorted(tally.latencies_ms)
    cuts = statistics.quantiles(times, n=1000) if len(times) > 1 else []
    floors = {"p50": (500, 10), "p90": (900, 64), "p99": (990, 662)}
    return {
        "outcomes": dict(tally.outcomes),
        "errors": dict(tally.errors.most_common(8)),
        "latency_ms": {
            name: round(cuts[cut - 1], 2)
            for name, (cut, floor) in floors.items()
            if len(times) >= floor
        },
    }
