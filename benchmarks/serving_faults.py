"""A thousand requests that no client should send, drawn by hypothesis; the server must stay up."""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

_NAMES = st.sampled_from(("input_ids", "attention_mask", "token_type_ids", "logits", "", "a" * 99))
_SHAPES = st.lists(st.integers(-3, 2**33), max_size=5)
_TYPES = st.sampled_from(("INT64", "INT32", "FP32", "BYTES", "BOOL", "FP99", "", None))
_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.none(), st.booleans()
)
_DATA = st.one_of(st.lists(_NUMBERS, max_size=40), _NUMBERS, st.lists(st.lists(_NUMBERS)))
_TENSORS = st.fixed_dictionaries(
    {}, optional={"name": _NAMES, "shape": _SHAPES, "datatype": _TYPES, "data": _DATA}
)
_JSON = st.recursive(
    _NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)
)
_SHAPED = st.fixed_dictionaries({"inputs": st.one_of(st.lists(_TENSORS, max_size=4), _JSON)})
_LARGE = st.integers(33, 300).map(
    lambda rows: {
        "inputs": [
            {"name": n, "shape": [rows, 2], "datatype": "INT64", "data": [1] * (2 * rows)}
            for n in ("input_ids", "attention_mask", "token_type_ids")
        ]
    }
)
# What is sent, and how: whole, cut off before its end, or with a length that is not its own.
_BODIES = st.one_of(
    st.binary(max_size=200),
    _SHAPED.map(lambda body: json.dumps(body).encode()),
    _LARGE.map(lambda body: json.dumps(body).encode()),
    _JSON.map(lambda body: json.dumps(body).encode()),
    st.just(b"[" * 20_000),
)
_WAYS = st.sampled_from(("whole", "whole", "whole", "cut off", "too long", "gzip", "path"))


def send_malformed(host: str, port: int, model: str, count: int) -> dict[str, Any]:
    """Send `count` requests one after the other and return what came."""
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(body=_BODIES, way=_WAYS, path=st.text("abz/.%-_0", max_size=20))
    def attack(body: bytes, way: str, path: str) -> None:
        outcomes[_send(host, port, model, body, way, path)] += 1

    attack()
    return {"sent": sum(outcomes.values()), "outcomes": dict(outcomes)}


def _send(host: str, port: int, model: str, body: bytes, way: str, path: str) -> str:
    target = f"/v2/models/{model}/infer"
    try:
        if way == "cut off":
            with socket.create_connection((host, port), timeout=10) as raw:
                head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + 10}\r\n"
                raw.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            return "cut off"
        headers = {"Content-Type": "application/json"}
        if way == "too long":
            headers["Content-Length"] = str(2**40)
        if way == "gzip":
            headers["Content-Encoding"] = "gzip"
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request("POST", f"/v2/{path}" if way == "path" else target, body, headers)
        if way == "too long":
            connection.close()
            return "cut off"
        status = connection.getresponse().status
        connection.close()
        return f"HTTP {status}"
    except TimeoutError:
        return "timeout"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return type(error).__name__
