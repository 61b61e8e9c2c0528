"""The rollout script, as a user runs it, against endpoints whose answers are known."""

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nirvana_deploy.serving.scale_out import compare_endpoints

ANSWERS: dict[str, Any] = {
    "/a": [("logits", "FP32", [2, 2], [0.0, math.log(3), 2.0, 0.0])],
    "/same": [("logits", "FP32", [2, 2], [0.0, math.log(3), 2.0, 0.0])],
    # The second row's other class wins; the first row is one half each.
    "/b": [("logits", "FP32", [2, 2], [0.0, 0.0, 0.0, 2.0])],
    "/narrow": [("logits", "FP32", [1, 2], [0.0, 1.0])],
    "/tokens": [("tokens", "INT64", [1, 4], [1, 2, 3, 4])],
    "/others": [("tokens", "INT64", [1, 4], [1, 2, 9, 4])],
    "/large": [("hidden", "FP32", [1, 2], [1e4, 0.0]), ("logits", "FP32", [1, 2], [0.5, 0.25])],
    "/small": [("hidden", "FP32", [1, 2], [1e4, 1.0]), ("logits", "FP32", [1, 2], [0.5, 0.0])],
    "/nan": [("hidden", "FP32", [1, 2], [1e4, 0.0]), ("logits", "FP32", [1, 2], [0.5, math.nan])],
    "/null": [("hidden", "FP32", [1, 2], [1e4, 0.0]), ("logits", "FP32", [1, 2], [0.5, None])],
}


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/same":
            time.sleep(0.1)
        names = ("name", "datatype", "shape", "data")
        rows = ANSWERS.get(self.path)
        outputs = [dict(zip(names, row, strict=True)) for row in rows or ()]
        self.send_response(200 if rows else 500)
        self.end_headers()
        self.wfile.write(json.dumps({"outputs": outputs} if rows else {"error": "no"}).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"inputs": []}\n\n{"inputs": [1]}\n')
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", compare_endpoints.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)


def test_endpoints_that_agree(url: str, requests: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    ended = run(f"{url}/a", f"{url}/same", str(requests), "--out", str(out), "--rounds", "5")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found == json.loads(out.read_text())
    assert found["argmax_agreement"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["kl_a_to_b_nats"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["max_abs_difference"] == 0
    # The second endpoint sleeps a tenth of a second, far above what a busy machine adds.
    assert found["latency_b_ms"]["low"] >= 100
    ratio = found["times_as_fast"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    medians = [found[f"latency_{side}_ms"]["value"] for side in "ab"]
    assert ratio["value"] == pytest.approx(medians[0] / medians[1])


def test_endpoints_that_differ(url: str, requests: Path) -> None:
    found = json.loads(run(f"{url}/a", f"{url}/b", str(requests)).stdout)
    assert found["argmax_agreement"]["value"] == pytest.approx(0.0)
    first = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    p = math.exp(2) / (math.exp(2) + 1)
    second = p * 2 - (1 - p) * 2
    assert found["kl_a_to_b_nats"]["value"] == pytest.approx((first + second) / 2)
    assert found["max_abs_difference"] == 2.0
    tokens = json.loads(run(f"{url}/tokens", f"{url}/others", str(requests)).stdout)
    assert tokens["token_match"]["value"] == 0.75
    assert "argmax_agreement" not in tokens


def test_each_output_is_related_to_its_own_largest_value(url: str, requests: Path) -> None:
    found = json.loads(run(f"{url}/large", f"{url}/small", str(requests)).stdout)
    outputs = found["outputs"]
    assert outputs["hidden"]["relative_difference"] == pytest.approx(1e-4)
    assert outputs["logits"]["relative_difference"] == pytest.approx(0.5)
    assert outputs["logits"]["max_abs_difference"] == 0.25


@pytest.mark.parametrize("sides", [("nan", "nan"), ("large", "nan"), ("null", "large")])
def test_what_is_not_a_number_is_no_agreement(
    url: str, requests: Path, sides: tuple[str, str]
) -> None:
    ended = run(*(f"{url}/{side}" for side in sides), str(requests))
    assert ended.returncode == 0, ended.stderr
    assert "NaN" not in ended.stdout and "Infinity" not in ended.stdout
    found = json.loads(ended.stdout)
    assert found["outputs"]["logits"]["not_a_number"] == 2  # one per request
    assert found["max_abs_difference"] is None
    assert found["outputs"]["hidden"]["max_abs_difference"] == 0
    assert found["argmax_agreement"]["value"] == 0


def test_what_cannot_be_compared_is_told(url: str, requests: Path, tmp_path: Path) -> None:
    ended = run(f"{url}/a", f"{url}/nothing", str(requests))
    assert ended.returncode == 1 and 'HTTP 500: {"error": "no"}' in ended.stderr
    ended = run(f"{url}/a", f"{url}/narrow", str(requests))
    assert ended.returncode == 1 and "The endpoints differ in form: logits [2, 2]" in ended.stderr
    ended = run("http://127.0.0.1:9/x", f"{url}/a", str(requests))
    assert ended.returncode == 1 and "Connection refused" in ended.stderr
    ended = run("file:///etc/hostname", f"{url}/a", str(requests))
    assert ended.returncode == 1 and "URL of an endpoint, http://..., got file:" in ended.stderr
    ended = run(f"{url}/a", f"{url}/b", str(tmp_path / "none"))
    assert ended.returncode == 1 and "none is missing: expected requests" in ended.stderr
    (tmp_path / "empty").write_text("\n")
    ended = run(f"{url}/a", f"{url}/b", str(tmp_path / "empty"))
    assert ended.returncode == 1 and "holds no requests" in ended.stderr
