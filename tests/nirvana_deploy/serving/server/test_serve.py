"""`nirvana serve` as a user starts it; tritonclient and urllib talk to it."""

import concurrent.futures
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nirvana_deploy.serving.onnx_signature import OnnxSignature, read_signature
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.server.protocol_client import ask_grpc, ask_http, get_json, make_rows
from nirvana_deploy.serving.server.serve_config import ServeConfig
from nirvana_deploy.serving.server.served_models import list_served_graphs
from nirvana_deploy.serving.triton.triton_package import package_triton
from nirvana_deploy.serving.triton.triton_text_check import compare_text
from nirvana_deploy.serving.triton.tritonserver import find_free_ports
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_classifier import (
    LABELS,
    make_classifier,
    save_checkpoint,
    save_classifier,
)

pytestmark = pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn (extra serve)")
pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] (extra triton) is missing")

MAX_BODY = 100_000


@dataclass
class Served:
    process: subprocess.Popen[str]
    http: int
    grpc: int
    metrics: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"


def start(package: Path, *flags: str) -> Served:
    http_port, grpc_port, metrics_port = find_free_ports(3)
    ports = (f"--http_port={http_port}", f"--grpc_port={grpc_port}")
    command = [sys.executable, "-m", "nirvana_deploy", "serve", str(package), *ports]
    process = subprocess.Popen(
        [*command, f"--metrics_port={metrics_port}", *flags], stdout=subprocess.PIPE, text=True
    )
    return Served(process, http_port, grpc_port, metrics_port)


def wait_until_ready(served: Served) -> None:
    assert served.process.stdout is not None
    for line in served.process.stdout:
        if line.startswith("Ready: "):
            return
    raise AssertionError("it ended before it was ready")


def stop(served: Served) -> int:
    served.process.send_signal(signal.SIGTERM)
    return served.process.wait(120)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    sources = OnnxSources(
        onnx=save_classifier(folder / "pruned.onnx", seed=1),
        dense=save_classifier(folder / "dense.onnx", seed=0),
        checkpoint=save_checkpoint(folder / "checkpoint"),
    )
    config = PackageConfig(model_name="tiny", max_batch_size=8, preferred_batch_sizes=())
    package_triton(sources, folder / "package", config)
    return folder / "package"


@pytest.fixture(scope="module")
def served(package: Path) -> Iterator[Served]:
    served = start(package, f"--max_body_bytes={MAX_BODY}")
    wait_until_ready(served)
    yield served
    assert stop(served) == 0


@pytest.fixture(scope="module")
def signature(package: Path) -> OnnxSignature:
    return read_signature(package / "model_repository" / "tiny" / "1" / "model.onnx")


@pytest.mark.parametrize(("version", "seed"), [("1", 0), ("2", 1), ("", 1)])
@pytest.mark.parametrize("way", ["http", "grpc"])
def test_each_version_answers_as_onnx_runtime_does(
    served: Served, signature: OnnxSignature, version: str, seed: int, way: str
) -> None:
    session = onnxruntime.InferenceSession(make_classifier(seed).SerializeToString())
    for rows, length in ((1, 5), (8, 12)):
        inputs = make_rows(signature, rows, length)
        (expected,) = session.run(None, dict(inputs))
        if way == "http":
            came = ask_http(served.url, "tiny", version, inputs, signature)
        else:
            came = ask_grpc(f"127.0.0.1:{served.grpc}", "tiny", version, inputs, signature)
        np.testing.assert_allclose(came["logits"], expected, rtol=1e-6, atol=1e-6)


def test_it_describes_itself_and_counts(served: Served) -> None:
    model = get_json(f"{served.url}/v2/models/tiny")
    assert model["inputs"] == [
        {"name": name, "datatype": "INT64", "shape": [-1, -1]}
        for name in ("input_ids", "attention_mask")
    ]
    for path in ("live", "ready"):
        urllib.request.urlopen(f"{served.url}/v2/health/{path}", timeout=5).close()
    url = f"http://127.0.0.1:{served.metrics}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert b'model_infer_request_success_total{model="tiny"' in answer.read()


def test_text_goes_in_and_a_label_comes_out(served: Served, package: Path) -> None:
    # Short, empty, long and very long texts, against each alone through the newest version.
    differences = list(compare_text(served.url, package / "model_repository", "tiny_text"))
    assert len(differences) == 5
    from tritonclient import grpc

    texts = np.array([[b"the first text"], [b"a word"]], dtype=np.object_)
    asked = grpc.InferInput("text", [2, 1], "BYTES")
    asked.set_data_from_numpy(texts)
    with grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        answer = client.infer("tiny_text", [asked])
        described = client.get_model_metadata("tiny_text", as_json=True)
    data = [text.decode() for text in texts.reshape(-1)]
    row = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": data}
    by_http = get_json(f"{served.url}/v2/models/tiny_text/infer", {"inputs": [row]})
    label, score = by_http["outputs"]
    assert [text.decode() for text in answer.as_numpy("label").reshape(-1)] == label["data"]
    np.testing.assert_allclose(answer.as_numpy("score").reshape(-1), score["data"], rtol=1e-6)
    assert set(label["data"]) <= set(LABELS) and label["shape"] == score["shape"] == [2, 1]
    assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": ["-1", "1"]}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"datatype": "INT64", "data": [1]}, "text must be of type BYTES, got INT64"),
        ({"shape": [1]}, "text must be of shape .rows, 1."),
        ({"data": ["a", "b"]}, "must be 1 texts, for shape .1, 1."),
        ({"data": [7]}, "must be 1 texts|data"),
        ({"shape": [9, 1], "data": ["a"] * 9}, "has 9 rows; at most 8 are taken"),
        ({"name": "words"}, "takes the inputs text, got words"),
    ],
)
def test_what_is_no_text_is_refused(served: Served, changes: dict[str, Any], reason: str) -> None:
    row = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a"], **changes}
    code, text = post(served, {"inputs": [row]}, "/v2/models/tiny_text/infer")
    assert code == 400 and re.search(reason, text), text


def test_bytes_that_are_no_text_are_refused(served: Served) -> None:
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    asked = grpc.InferInput("text", [1, 1], "BYTES")
    asked.set_data_from_numpy(np.array([[b"\xff\xfe"]], dtype=np.object_))
    with (
        grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client,
        pytest.raises(InferenceServerException, match="text is not UTF-8"),
    ):
        client.infer("tiny_text", [asked])


def request(**changes: Any) -> dict[str, Any]:
    ids = {"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}
    mask = {"name": "attention_mask", "shape": [1, 2], "datatype": "INT64", "data": [1, 1]}
    return {"inputs": [{**ids, **changes}, mask]}


def post(served: Served, body: Any, path: str = "/v2/models/tiny/infer") -> tuple[int, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{served.url}{path}", data, headers)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (request(name="ids"), 400, "takes the inputs input_ids, attention_mask, got ids"),
        (request(datatype="FP32"), 400, "input_ids must be of type INT64, got FP32"),
        (request(shape=[2]), 400, "input_ids must be of shape .rows, any., .* got .2."),
        (request(shape=[0, 2], data=[]), 400, "with 1 or more of each"),
        (request(shape=[-1, 2]), 400, "with 1 or more of each"),
        (request(shape=[9, 2], data=[1] * 18), 400, "has 9 rows; at most 8 are taken"),
        (request(shape=[2, 2], data=[1] * 4), 400, "different numbers of rows"),
        (request(data=[1, 2, 3]), 400, "must be 2 numbers of type int64"),
        (request(data=["a", "b"]), 400, "data of input_ids cannot be read|must be 2 numbers"),
        (request(data=[1.5, 2]), 400, "must be 2 numbers of type int64"),
        (request(data=[1, 99]), 400, "input_ids must hold numbers from 0 to 49, got 1 to 99"),
        ({"inputs": []}, 400, "got none"),
        ({}, 400, "The body cannot be read: .* missing required field `inputs`"),
        ([], 400, "The body cannot be read: Expected `object`"),
        (b'{"inputs": [', 400, "The body cannot be read: .* truncated"),
        (b"\xff\xfe", 400, "The body cannot be read"),
        (b" " * (MAX_BODY + 1), 413, "larger than 100000 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    served: Served, body: Any, status: int, reason: str
) -> None:
    code, text = post(served, body)
    assert code == status and re.search(reason, text), text
    assert post(served, request())[0] == 200


def test_a_body_that_is_not_said_to_be_json_is_refused_with_the_remedy(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=20)
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # curl's own
    connection.request("POST", "/v2/models/tiny/infer", json.dumps(request()), headers=form)
    answer = connection.getresponse()
    assert answer.status == 400 and b"as Content-Type: application/json" in answer.read()
    connection.close()


def test_no_client_loads_streams_or_unloads_models(served: Served) -> None:
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    for path in ("load", "unload"):
        assert post(served, {}, f"/v2/repository/models/tiny/{path}")[0] == 404
    assert post(served, request(), "/v2/models/tiny/infer_stream")[0] == 404
    assert post(served, request(), "/v2/models/other/infer")[0] == 404
    with (
        grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client,
        pytest.raises(InferenceServerException, match="models of this server are fixed"),
    ):
        client.unload_model("tiny")
    assert post(served, request())[0] == 200


def test_a_compressed_undeclared_or_cut_off_body_does_no_harm(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=20)
    connection.request("POST", "/v2/models/tiny/infer", b"x", headers={"Content-Encoding": "gzip"})
    assert connection.getresponse().status == 415
    connection.close()
    chunks = (b" " * 5000 for _ in range(50))
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=20)
    connection.request("POST", "/v2/models/tiny/infer", chunks, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    with socket.create_connection(("127.0.0.1", served.http)) as cut:
        cut.sendall(
            b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        )
    assert post(served, request())[0] == 200


def test_it_listens_on_the_loopback_address_alone(served: Served) -> None:
    # /proc/net/tcp has addresses as hexadecimal, in the machine's byte order.
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    ports = {f"{port:04X}" for port in (served.http, served.grpc, served.metrics)}
    listening = [line[1].split(":") for line in lines if line[3] == "0A"]
    found = {(address, port) for address, port in listening if port in ports}
    # gRPC listens on 127.0.0.1 as IPv6 writes it.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert {port for _, port in found} == ports
    assert {address for address, _ in found} <= loopback


def find_workers(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"spawn_main" in command:
            found.append(int(path.parent.name))
    return found


def test_a_killed_worker_is_replaced_and_nothing_is_answered_wrongly(served: Served) -> None:
    (worker,) = find_workers(served.process.pid)
    right = post(served, request())[1]
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status, text = post(served, request())
        assert status in (200, 500, 503)
        if status == 200:
            break
    answer, expected = json.loads(text), json.loads(right)
    assert answer["outputs"] == expected["outputs"]
    assert find_workers(served.process.pid) != [worker]


def test_open_requests_are_answered_before_it_stops(package: Path) -> None:
    served = start(package)
    wait_until_ready(served)
    rows = request(shape=[8, 1000], data=[1] * 8000)["inputs"]
    rows[1] = {**rows[0], "name": "attention_mask"}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(post, served, {"inputs": rows}) for _ in range(32)]
        concurrent.futures.wait(jobs, return_when=concurrent.futures.FIRST_COMPLETED)
        assert stop(served) == 0
    statuses = []
    for job in jobs:
        try:
            statuses.append(job.result()[0])
        except (urllib.error.URLError, ConnectionError):
            statuses.append(0)  # it came too late: nobody listened any more
    # Each is answered whole, told that the server stops, or not taken; none is cut off.
    assert statuses.count(200) >= 1 and set(statuses) <= {0, 200, 503}


def run_serve(package: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nirvana_deploy", "serve", str(package), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_a_port_in_use_a_changed_package_and_no_package_are_named(
    package: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_serve(package, f"--grpc_port={port}")
    assert ended.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port} (Address already in use)" in ended.stderr
    assert "choose another grpc_port" in ended.stderr

    shutil.copytree(package, tmp_path / "changed")
    save_classifier(tmp_path / "changed" / "model_repository" / "tiny" / "2" / "model.onnx", 7)
    ended = run_serve(tmp_path / "changed")
    assert ended.returncode == 1 and "package.json says" in ended.stderr
    ended = run_serve(tmp_path)
    assert ended.returncode == 1 and "is not a package of `nirvana package`" in ended.stderr


def test_a_package_that_vouches_for_nonsense_is_refused(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    manifest = json.loads((folder / "package.json").read_text())
    (name,) = (name for name in manifest["sha256"] if name.endswith("/text.json"))
    text = {**json.loads((folder / name).read_text()), "classifier": "none"}
    (folder / name).write_text(json.dumps(text))
    manifest["sha256"][name] = hash_file(folder / name)
    (folder / "package.json").write_text(json.dumps(manifest))
    with pytest.raises(NirvanaError, match=r"names the model none, which .* does not hold"):
        list_served_graphs(folder)
    del manifest["settings"]["max_batch_size"]
    (folder / "package.json").write_text(json.dumps(manifest))
    with pytest.raises(NirvanaError, match="has no max_batch_size in its settings"):
        list_served_graphs(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"http_port": 8001}, "must be three ports from 1 to 65535, got 8001, 8001, 8002"),
        ({"http_port": 0}, "three ports from 1 to 65535"),
        ({"num_workers": 0}, "num_workers must be 1 or more, got 0"),
        ({"num_threads": -1}, "num_threads must be .* got -1"),
        ({"max_body_bytes": 1}, "max_body_bytes must be 1024 or more, got 1"),
        ({"max_waiting": 0}, "max_waiting must be 1 or more, got 0"),
        ({"drain_seconds": -1}, "drain_seconds must be 0 or more, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        ServeConfig(**settings)


def test_a_server_whose_worker_does_not_listen_ends_it_by_force(package: Path) -> None:
    served = start(package)
    wait_until_ready(served)
    (worker,) = find_workers(served.process.pid)
    os.kill(worker, signal.SIGSTOP)
    assert stop(served) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
