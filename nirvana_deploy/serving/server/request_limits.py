"""Reads an HTTP request's body, up to a limit in bytes and time, before anything looks at it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nirvana_deploy.serving.server.serve_config import ServeConfig

# Files that the process has open besides connections: workers' pipes, libraries, the log.
_OTHER_FILES = 64
# Connections that wait to be accepted. asyncio accepts that many in one go, before the protocol
# sees the first, and may do so a few times more until a connection that gives way is closed.
BACKLOG = 32
_ACCEPTED_AT_ONCE = 4 * BACKLOG


# Whoever reads metrics needs one connection.
METRICS_CONNECTIONS = 8


def make_protocol_class(config: ServeConfig, max_connections: int) -> type[H11Protocol]:
    """Return uvicorn's protocol with the limits of a server; one class per listening port."""

    class LimitedProtocol(H11Protocol):
        """Closes a connection whose headers take too long, and the oldest such in want of room."""

        without_headers: dict[LimitedProtocol, None] = {}  # noqa: RUF012 (in order of age)
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                victim = next(iter(self.without_headers), self)
                victim.transport.abort()
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_headers()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._forget_headers()
            elif self._deadline is None:
                self._await_headers()

        def _await_headers(self) -> None:
            self.without_headers[self] = None
            self._deadline = self.loop.call_later(config.header_seconds, self.transport.abort)

        def _forget_headers(self) -> None:
            self.without_headers.pop(self, None)
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return LimitedProtocol


def share_connections(config: ServeConfig) -> int:
    """Return how many connections HTTP and gRPC may have each, so that none keeps the other out."""
    return min(config.max_connections, (count_free_files() - METRICS_CONNECTIONS) // 2)


def count_free_files() -> int:
    """Return how many connections the limit on open files leaves room for, on all ports."""
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(24, allowed - _OTHER_FILES - _ACCEPTED_AT_ONCE) if allowed > 0 else 2**31


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_BODY_SECONDS = 30.0
# How much of a refused body is read and thrown away, so that the client gets to read why.
_DRAIN_SECONDS = 5.0
_DRAIN_BYTES = 2**26


class RequestLimits:
    """ASGI middleware: a body that is too large, too slow or compressed is refused."""

    def __init__(self, app: Application, *, max_body_bytes: int) -> None:
        self._app = app
        self._limit = max_body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on with its whole body at hand."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if b"content-encoding" in headers:  # a small body may unpack to a large one
            await _refuse(send, 415, "Send the body uncompressed.", receive)
            return
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._limit:
            await self._refuse_size(send, receive)
            return
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._read_body(receive)
        except TimeoutError:
            reason = f"The body did not come within {_BODY_SECONDS:.0f} seconds."
            await _refuse(send, 408, reason, receive)
            return
        except _TooLargeError:
            await self._refuse_size(send, receive)
            return
        except ConnectionError:  # the client went away; nobody is there to answer
            return
        await self._app(scope, _Replay(body, receive), send)

    async def _read_body(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise _TooLargeError
            if not message.get("more_body", False):
                return bytes(body)

    async def _refuse_size(self, send: Send, receive: Receive) -> None:
        await _refuse(send, 413, f"The body is larger than {self._limit} bytes.", receive)


class _TooLargeError(Exception):
    pass


class _Replay:
    """Gives a body that was read, then what the connection says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _refuse(send: Send, status: int, reason: str, receive: Receive) -> None:
    """Answer, and read on for a while before the connection is closed.

    Closed with bytes unread, it would be reset, and a client that still writes would find the
    reset in place of the answer.
    """
    body = json.dumps({"error": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            more = True
            while more and drained < _DRAIN_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})
