"""Limits on HTTP connections that uvicorn lacks: their number, and the time for headers."""

from __future__ import annotations

import asyncio
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
