"""Requests that no client should send: refused before a worker sees them, and nobody else waits."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana_deploy.serving.onnx_signature import TensorSignature
from nirvana_deploy.serving.server.inference_request import (
    GivenTensor,
    InferRequest,
    RefusedError,
    RequestReader,
    split_bytes,
)
from tests.nirvana_deploy.serving.server.test_serve import (
    Served,
    find_free_ports,
    find_workers,
    post,
    request,
    stop,
    wait_until_ready,
)
from tests.nirvana_deploy.serving.server.test_serve import package as package

pytestmark = pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn (extra serve)")
pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] (extra triton) is missing")

MAX_FILES, HEADER_SECONDS = 128, 1
LIMITS = {
    "max_body_bytes": 200_000,
    "max_tokens": 64,
    "max_text_chars": 20_000,
    "header_seconds": HEADER_SECONDS,
    "request_seconds": 4,
}


@pytest.fixture(scope="module")
def served(package: Path) -> Iterator[Served]:
    """A server that may open few files, as many systems allow, and has small limits."""
    ports = find_free_ports(3)
    names = ("http_port", "grpc_port", "metrics_port")
    flags = {**dict(zip(names, ports, strict=True)), **LIMITS}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "nirvana_deploy", "serve", str(package)),
            *(f"--{name}={value}" for name, value in flags.items()),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES)),
    )
    served = Served(process, *ports)
    wait_until_ready(served)
    yield served
    assert stop(served) == 0
    assert process.stderr is not None
    assert len(process.stderr.read().splitlines()) < 20  # whatever came, the log stays short


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (request(data=[-1, 2]), "input_ids must hold numbers from 0 to 49, got -1 to 2"),
        (request(data=[True, False]), "must be 2 numbers of type int64"),
        (request(data=[True, 2]), "must be 2 numbers of type int64"),
        (request(data=[1.0, 2.0]), "must be 2 numbers of type int64"),
        (request(data=[1, 2**70]), "cannot be read"),
        (request(data=[1, 50]), "from 0 to 49"),
        (request(shape=[1, 65], data=[1] * 65), "has 65 tokens; at most 64 are taken"),
        ({**request(), "outputs": [{"name": "zzz"}]}, "no output zzz; it has logits"),
        ({**request(), "inputs": [*request()["inputs"], request()["inputs"][0]]}, "takes the inp"),
        ({"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2]}]}, "has no data"),
        (request(shape=[0, 2], data=[]), "with 1 or more of each, got [0, 2]"),
        (request(shape=[], data=[]), "must be of shape [rows, any]"),
        (request(shape=[-1, -2]), "with 1 or more of each"),
        (request(datatype="BYTES"), "must be of type INT64, got BYTES"),
        (request(parameters={"shared_memory_region": "x"}), "of an extension that this server"),
        (
            {**request(), "outputs": [{"name": "logits", "parameters": {"classification": 1}}]},
            "logits has the parameter classification",
        ),
    ],
)
def test_numbers_that_the_model_would_answer_wrongly_are_refused(
    served: Served, body: Any, reason: str
) -> None:
    status, text = post(served, body)
    assert (status, reason in text) == (400, True), text
    assert post(served, request())[0] == 200


@pytest.mark.parametrize("mask", [[7, 1], [-1, 1]])
def test_masks_hold_zeros_and_ones(served: Served, mask: list[int]) -> None:
    body = request()
    body["inputs"][1]["data"] = mask
    status, text = post(served, body)
    assert status == 400 and "attention_mask must hold 0 and 1 alone" in text


def test_asked_outputs_alone_are_given(served: Served) -> None:
    status, text = post(served, {**request(), "outputs": [{"name": "logits"}]})
    assert status == 200 and [row["name"] for row in json.loads(text)["outputs"]] == ["logits"]


@pytest.mark.parametrize("id_", ["七", "a\r\nb: c", "\x00", "x" * 10_000])
def test_ids_that_no_header_can_hold_come_back_in_the_body(served: Served, id_: str) -> None:
    status, text = post(served, {**request(), "id": id_})
    assert status == 200 and json.loads(text)["id"] == id_


def test_a_body_that_is_too_large_is_told_so_though_the_client_writes_on(served: Served) -> None:
    for _ in range(5):
        status, text = post(served, b" " * 3_000_000)
        assert status == 413 and "larger than 200000 bytes" in text


def test_tensors_behind_the_json_are_read_and_their_lengths_checked(served: Served) -> None:
    right = json.loads(post(served, request())[1])["outputs"]
    ids, mask = (np.array([[a, b]], np.int64).tobytes() for a, b in ((1, 2), (1, 1)))

    def send(ids_size: int, tail: bytes) -> tuple[int, Any]:
        body = request()
        for given, size in zip(body["inputs"], (ids_size, 16), strict=True):
            del given["data"]
            given["parameters"] = {"binary_data_size": size}
        head = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=20)
        connection.request(
            "POST",
            "/v2/models/tiny/infer",
            head + tail,
            {"Inference-Header-Content-Length": str(len(head))},
        )
        answer = connection.getresponse()
        read = json.loads(answer.read())
        connection.close()
        return answer.status, read

    assert send(16, ids + mask) == (200, {**json.loads(post(served, request())[1])})
    assert json.loads(post(served, request())[1])["outputs"] == right
    for size, tail, reason in (
        (8, ids[:8] + mask, "must be 16 bytes"),
        (99, ids + mask, "says that it has 99 bytes"),
        (16, ids + mask + b"rest", "4 bytes of the body belong to no input"),
    ):
        status, read = send(size, tail)
        assert status == 400 and reason in read["error"], read


def test_grpc_has_the_codes_of_its_protocol(served: Served) -> None:
    import grpc
    from tritonclient.grpc import service_pb2 as messages
    from tritonclient.grpc import service_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = messages.ModelInferRequest(model_name="tiny")
        for name in ("input_ids", "attention_mask"):
            asked.inputs.add(name=name, datatype="INT64", shape=[1, 2])
        asked.raw_input_contents.extend([b"123", b"456"])
        nobody = messages.ModelInferRequest(model_name="nobody")
        load = messages.RepositoryModelLoadRequest(model_name="tiny")
        unload = messages.RepositoryModelUnloadRequest(model_name="tiny")
        for call, given, code in (
            (stub.ModelInfer, asked, grpc.StatusCode.INVALID_ARGUMENT),
            (stub.ModelInfer, nobody, grpc.StatusCode.NOT_FOUND),
            (stub.RepositoryModelLoad, load, grpc.StatusCode.PERMISSION_DENIED),
            (stub.RepositoryModelUnload, unload, grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                call(given, timeout=20)
            assert raised.value.code() == code


def test_grpc_bodies_that_are_no_messages_and_calls_that_are_not_served(served: Served) -> None:
    import grpc

    path = "/inference.GRPCInferenceService/"
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        for name, body, code, reason in (
            ("ModelInfer", b"\xff\xff", "INVALID_ARGUMENT", "2 bytes is no message of ModelInfer"),
            ("ServerLive", b"\x0a", "INVALID_ARGUMENT", "is no message of ServerLive"),
            ("ModelConfig", b"", "UNIMPLEMENTED", "does not have the call; it has ServerLive, "),
            ("Nothing", b"", "UNIMPLEMENTED", "does not have the call"),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(path + name)(body, timeout=20)
            assert raised.value.code().name == code
            assert reason in raised.value.details()
        with pytest.raises(grpc.RpcError) as raised:
            list(channel.stream_stream(path + "ModelStreamInfer")(iter([b""]), timeout=20))
        assert raised.value.code().name == "UNIMPLEMENTED"


def test_grpc_refuses_what_http_refuses(served: Served) -> None:
    import grpc
    from tritonclient.grpc import service_pb2 as messages
    from tritonclient.grpc import service_pb2_grpc

    def ask(ids: list[int], mask: list[int], change: Any = None) -> Any:
        asked = messages.ModelInferRequest(model_name="tiny")
        for name, numbers in (("input_ids", ids), ("attention_mask", mask)):
            given = asked.inputs.add(name=name, datatype="INT64", shape=[1, len(numbers)])
            given.contents.int64_contents.extend(numbers)
        if change is not None:
            change(asked)
        return asked

    def name_region(asked: Any) -> None:
        asked.inputs[0].parameters["shared_memory_region"].string_param = "x"

    def ask_for_classes(asked: Any) -> None:
        asked.outputs.add(name="logits").parameters["classification"].int64_param = 1

    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelInfer(ask([1, 2], [1, 1]), timeout=60).outputs[0].name == "logits"
        for asked, reason in (
            (ask([-1, 2], [1, 1]), "from 0 to 49, got -1"),
            (ask([1, 50], [1, 1]), "from 0 to 49"),
            (ask([1, 2], [7, 1]), "must hold 0 and 1 alone"),
            (ask([1] * 65, [1] * 65), "has 65 tokens; at most 64"),
            (ask([], []), "with 1 or more of each, got [1, 0]"),
            (ask([1, 2], [1, 1], lambda a: a.outputs.add(name="zzz")), "no output zzz"),
            (ask([1, 2], [1, 1], lambda a: a.raw_input_contents.extend([b"", b""])), "one of them"),
            (ask([1, 2], [1, 1], lambda a: a.raw_input_contents.extend([b""])), "raw contents of"),
            (
                ask([1, 2], [1, 1], lambda a: a.inputs.add(name="input_ids", datatype="INT64")),
                "takes the inputs",
            ),
            (ask([1, 2], [1, 1], name_region), "the parameter shared_memory_region"),
            (ask([1, 2], [1, 1], ask_for_classes), "the parameter classification"),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                stub.ModelInfer(asked, timeout=60)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert reason in raised.value.details()


@pytest.mark.parametrize("length", ["9" * 5000, "0" * 5000, "-1", "1e3", "99999999"])
def test_a_length_of_the_json_that_is_none_is_refused(served: Served, length: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=60)
    headers = {"Inference-Header-Content-Length": length}
    connection.request("POST", "/v2/models/tiny/infer", json.dumps(request()), headers)
    answer = connection.getresponse()
    assert answer.status == 400 and b"Inference-Header-Content-Length is" in answer.read()
    connection.close()


def test_headers_that_are_too_large_end_with_their_connection(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=60)
    with contextlib.suppress(OSError):  # it may be closed while we write
        connection.request("GET", "/v2/health/live", headers={"X": "x" * 200_000})
        assert connection.getresponse().status in (400, 431)
    connection.close()
    assert post(served, request())[0] == 200


def test_a_body_in_chunks_has_the_same_limits(served: Served) -> None:
    def chunk(parts: list[bytes]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v2/models/tiny/infer", iter(parts), headers)
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return answer.status, read

    body = json.dumps(request()).encode()
    assert chunk([body[i : i + 7] for i in range(0, len(body), 7)])[0] == 200
    status, read = chunk([b" " * 1000] * 300)
    assert status == 413 and b"larger than 200000 bytes" in read


def test_connections_to_the_other_ports_keep_no_request_out(served: Served) -> None:
    """Half of them speak gRPC and stop, half say nothing; metrics get as many."""
    opened = []
    for port in (served.grpc, served.metrics):
        for number in range(2 * MAX_FILES):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            opened.append(connection)
            with contextlib.suppress(OSError):  # those beyond the limit are closed at once
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if number % 2 else b"X")
    assert post(served, request())[0] == 200
    for connection in opened:
        connection.close()


def reader(datatype: str) -> RequestReader:
    signature = TensorSignature(name="x", data_type=f"TYPE_{datatype}", dims=(-1,))
    return RequestReader(
        inputs={"x": signature},
        outputs=["y"],
        max_batch_size=4,
        max_tokens=64,
        max_text_chars=10,
    )


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [1.0, 1e39]),
        ("FP16", [1, 70000]),
        ("FP32", np.array([1, np.nan], np.float32).tobytes()),
        ("FP64", np.array([1, np.inf]).tobytes()),
    ],
)
def test_numbers_that_are_not_finite_are_refused(datatype: str, data: Any) -> None:
    given = GivenTensor(name="x", datatype=datatype, shape=(1, 2), data=data)
    with pytest.raises(RefusedError, match=r"x must hold finite numbers; got NaN, infinity"):
        reader(datatype).read(InferRequest(inputs=(given,)))


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "INT16", "UINT32", "UINT64"])
def test_integers_beyond_their_type_are_refused(datatype: str) -> None:
    right = GivenTensor(name="x", datatype=datatype, shape=(1, 2), data=[1, 2])
    read = reader(datatype).read(InferRequest(inputs=(right,)))["x"]
    assert read.tolist() == [[1, 2]] and str(read.dtype) == datatype.lower()
    wrong = GivenTensor(name="x", datatype=datatype, shape=(1, 2), data=[1, 2**64])
    with pytest.raises(RefusedError, match="The data of x cannot be read"):
        reader(datatype).read(InferRequest(inputs=(wrong,)))


def ask_text(served: Served, text: str) -> tuple[int, Any]:
    row = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    status, answer = post(served, {"inputs": [row]}, "/v2/models/tiny_text/infer")
    return status, json.loads(answer)


def test_long_texts_are_cut_to_the_same_answer_and_longer_ones_refused(served: Served) -> None:
    words = "the first text is a word "
    status, long = ask_text(served, words * 700)
    assert status == 200
    assert long["outputs"] == ask_text(served, words * 100)[1]["outputs"]
    assert (
        ask_text(served, " " * 15_000 + "word")[1]["outputs"]
        == (ask_text(served, "word")[1]["outputs"])
    )
    status, refused = ask_text(served, "a" * 20_001)
    assert status == 400 and "a text of 20001 characters; at most 20000" in refused["error"]


def test_connections_that_drip_their_headers_keep_nobody_out(served: Served) -> None:
    """More of them than the process may have files open; all are closed after a while."""
    drips = []
    for _ in range(2 * MAX_FILES):
        drips.append(socket.create_connection(("127.0.0.1", served.http), timeout=20))
        drips[-1].sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nX: ")
    assert post(served, request())[0] == 200
    deadline = time.monotonic() + 60 * HEADER_SECONDS
    while drips and time.monotonic() < deadline:
        for drip in list(drips):
            try:
                drip.sendall(b"x")
                drip.setblocking(False)
                if drip.recv(1) == b"":
                    raise ConnectionResetError
            except BlockingIOError:
                drip.setblocking(True)
            except OSError:
                drip.close()
                drips.remove(drip)
        time.sleep(0.1)
    assert not drips
    assert post(served, request())[0] == 200


def test_a_request_that_takes_too_long_ends_with_its_worker(served: Served) -> None:
    (worker,) = find_workers(served.process.pid)
    os.kill(worker, signal.SIGSTOP)  # as one that computes without end
    status, text = post(served, request())
    assert status == 504 and "took more than 4 seconds" in text
    wait_until_answered(served)
    assert find_workers(served.process.pid) != [worker]


def test_a_worker_killed_while_it_answers_leaves_no_lock_taken(served: Served) -> None:
    """Again and again, at any moment: the others' requests are answered, or told to come later."""
    statuses = set()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            statuses.add(post(served, request())[0])

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for _ in range(3):
        wait_until_answered(served)
        for worker in find_workers(served.process.pid):
            os.kill(worker, signal.SIGKILL)
    wait_until_answered(served)
    ended.set()
    for thread in asking:
        thread.join()
    assert 200 in statuses and statuses <= {200, 503, 504}


def wait_until_answered(served: Served) -> None:
    deadline = time.monotonic() + 180
    while post(served, request())[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bytes_that_end_within_a_text_are_refused() -> None:
    for data in (b"\x05\0\0\0abc", b"\x01\0", b"\0\0\0\0\xff"):
        with pytest.raises(RefusedError, match="end within a text"):
            split_bytes(GivenTensor(name="text", datatype="BYTES", shape=(1, 1), data=data))
