"""The load generator counts what came, on a server whose answers are known."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import serving_load
from serving_load import Ask, Tally, run_load, send

ASK = Ask(b"{}", np.array([[1.0, 2.0]]))


class Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/slow":
            time.sleep(1.0)
        data = [1.0, 2.5] if self.path == "/wrong" else [1.0, 2.0]
        body = json.dumps({"outputs": [{"shape": [1, 2], "data": data}]}).encode()
        self.send_response(500 if self.path == "/error" else 200)
        self.end_headers()
        self.wfile.write(b"not json" if self.path == "/garbage" else body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/right", "right"),
        ("/wrong", "wrong"),
        ("/error", "HTTP 500"),
        ("/garbage", "connection error"),
        ("/slow", "timeout"),
    ],
)
def test_each_outcome_is_told_apart(
    url: str, path: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_load, "TIMEOUT_SECONDS", 0.3)
    tally = Tally()
    send(f"{url}{path}", ASK, tally, time.monotonic())
    assert dict(tally.outcomes) == {outcome: 1}
    assert len(tally.latencies_ms) == (outcome == "right")


def test_a_latency_counts_from_when_the_request_was_due(url: str) -> None:
    tally = Tally()
    send(f"{url}/right", ASK, tally, time.monotonic() - 2)
    assert tally.latencies_ms[0] > 2000


def test_the_load_is_of_the_asked_rate_and_calls_at_half(url: str) -> None:
    called: list[float] = []
    started = time.monotonic()
    found = run_load(
        f"{url}/right", [ASK], rate=100, seconds=2, at_half=lambda: called.append(time.monotonic())
    )
    assert 0.9 < called[0] - started < 1.5
    assert 140 < found["sent"] < 260
    assert found["outcomes"] == {"right": found["sent"]}
    assert found["first_right_after_kill_seconds"] < 1
    assert found["right_in_the_last_tenth"] > 5
    # Too few answers for a p99.
    assert set(found["latency_ms"]) == {"p50", "p90"}
