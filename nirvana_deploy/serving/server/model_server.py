"""Serves a fixed set of models: what HTTP and gRPC share, and the run from start to end."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from nirvana_deploy.serving.server.inference_request import (
    InferRequest,
    RefusedError,
    RequestReader,
)
from nirvana_deploy.serving.server.serve_config import ServeConfig
from nirvana_deploy.serving.server.served_models import ServedGraph, list_served_graphs
from nirvana_deploy.serving.server.worker_pool import WorkerPool
from profiles.measuring.environment import count_allowed_cpus
from pruning.errors import MissingExtraError, NirvanaError
from pruning.progress import Say


def serve_package(package: Path, config: ServeConfig, say: Say) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is open and return.

    `say` gets one line when all models are loaded.

    Raises:
        MissingExtraError: A part of the server, or ONNX Runtime, is not installed.
        NirvanaError: the folder is no package or was changed, or a port is in use.
    """
    for module, what, extra in (
        ("starlette", "Starlette", "serve"),
        ("uvicorn", "uvicorn", "serve"),
        ("prometheus_client", "prometheus_client", "serve"),
        ("tritonclient", "tritonclient[grpc]", "serve"),
        ("grpc", "grpcio", "serve"),
        ("onnxruntime", "ONNX Runtime", "cpu"),
    ):
        if find_spec(module) is None:
            raise MissingExtraError(what, extra)
    graphs = list_served_graphs(package.absolute())
    for name in ("http_port", "grpc_port", "metrics_port"):
        _check_port(config.host, name, getattr(config, name))

    async def run() -> None:
        await ModelServer(graphs, config).serve(say)

    asyncio.run(run())


def _check_port(host: str, name: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NirvanaError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Free it, or choose another "
                f"{name}."
            ) from error


_POLL_SECONDS = 0.05


class ModelServer:
    """Checks, counts and runs requests; the protocols' own servers call it.

    Make it within an event loop.
    """

    def __init__(self, graphs: tuple[ServedGraph, ...], config: ServeConfig) -> None:
        self.config = config
        self.graphs = {(graph.name, graph.version): graph for graph in graphs}
        self.metrics = CollectorRegistry()
        self._pool = WorkerPool(
            graphs,
            num_workers=config.num_workers,
            num_threads=config.num_threads or count_allowed_cpus(),
            request_seconds=config.request_seconds,
        )
        self._readers = {key: _make_reader(graph, config) for key, graph in self.graphs.items()}
        self._num_open = 0
        self._is_stopping = False
        labels = ("model", "version")
        self._succeeded = Counter(
            "model_infer_request_success", "Answered requests", labels, registry=self.metrics
        )
        self._failed = Counter(
            "model_infer_request_failure", "Refused requests", labels, registry=self.metrics
        )
        self._took = Histogram(
            "model_infer_request_duration", "Seconds per answer", labels, registry=self.metrics
        )

    @property
    def is_ready(self) -> bool:
        """Whether every model is open in every worker, and requests are taken."""
        return self._pool.is_ready and not self._is_stopping

    def find(self, name: str, version: str = "") -> ServedGraph:
        """Return a model by name and version; the newest without one.

        Raises:
            RefusedError: there is none; its status is 404.
        """
        versions = [int(graph.version) for graph in self.graphs.values() if graph.name == name]
        if not versions:
            names = ", ".join(sorted({graph.name for graph in self.graphs.values()}))
            raise RefusedError(f"There is no model {name}; this server has {names}.", 404)
        if version and (name, version) not in self.graphs:
            have = ", ".join(map(str, sorted(versions)))
            raise RefusedError(f"Model {name} has no version {version}; it has {have}.", 404)
        return self.graphs[name, version or str(max(versions))]

    async def infer(
        self, name: str, version: str, request: InferRequest
    ) -> tuple[ServedGraph, Mapping[str, Any]]:
        """Return the model that answered, and the outputs that were asked for, by name.

        Raises:
            RefusedError: the request does not fit, or cannot be run now.
        """
        graph = self.find(name, version)
        started = time.perf_counter()
        try:
            outputs = await self._run(graph, request)
        except RefusedError:
            self._failed.labels(graph.name, graph.version).inc()
            raise
        self._succeeded.labels(graph.name, graph.version).inc()
        self._took.labels(graph.name, graph.version).observe(time.perf_counter() - started)
        wanted = request.outputs or tuple(outputs)
        return graph, {output: outputs[output] for output in wanted}

    async def _run(self, graph: ServedGraph, request: InferRequest) -> dict[str, object]:
        if self._is_stopping:
            raise RefusedError("The server is stopping.", 503)
        if self._num_open >= self.config.max_waiting:
            raise RefusedError(f"{self._num_open} requests are waiting already. Try later.", 503)
        key = (graph.name, graph.version)
        self._num_open += 1
        try:
            return await self._pool.run(key, self._readers[key].read(request))
        finally:
            self._num_open -= 1

    async def serve(self, say: Say) -> None:
        """Serve until SIGTERM or SIGINT; return when all is answered.

        Raises:
            NirvanaError: a model does not open.
        """
        from nirvana_deploy.serving.server.grpc_service import GrpcServer
        from nirvana_deploy.serving.server.http_service import HttpServer, make_app, make_metrics
        from nirvana_deploy.serving.server.request_limits import (
            METRICS_CONNECTIONS,
            share_connections,
        )

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_Throttle())
        told = asyncio.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, told.set)
        config, share = self.config, share_connections(self.config)
        http = HttpServer(make_app(self), config, config.http_port, share)
        metrics = HttpServer(
            make_metrics(self.metrics), config, config.metrics_port, METRICS_CONNECTIONS
        )
        grpc = GrpcServer(self, share)
        await self._start_pool(told)
        try:
            if not told.is_set():
                await asyncio.gather(http.start(), metrics.start(), grpc.start())
                say(_describe(self))
                await told.wait()
            self._is_stopping = True
            deadline = loop.time() + self.config.drain_seconds
            while self._num_open and loop.time() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await asyncio.gather(http.stop(), metrics.stop(), grpc.stop())
            await self._pool.close()

    async def _start_pool(self, told: asyncio.Event) -> None:
        """Open the models, unless the server is told to stop before they are."""
        starting = asyncio.create_task(self._pool.start())
        stopping = asyncio.create_task(told.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            starting.result()
        else:
            starting.cancel()


class _Throttle:
    """Writes an event loop's errors to the log, each kind once per minute.

    Clients provoke them: without a file descriptor left, every waiting connection is one.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        kind = f"{context.get('message')} ({error!r})"[:300]
        now = loop.time()
        if now - self._last.get(kind, -60.0) >= 60 and len(self._last) < 1000:
            self._last[kind] = now
            loop.default_exception_handler({"message": kind})


def _make_reader(graph: ServedGraph, config: ServeConfig) -> RequestReader:
    return RequestReader(
        inputs={tensor.name: tensor for tensor in graph.signature.inputs},
        outputs=[tensor.name for tensor in graph.signature.outputs],
        max_batch_size=graph.max_batch_size,
        max_tokens=config.max_tokens,
        max_text_chars=config.max_text_chars,
        max_positions=graph.max_positions,
        id_limits=graph.id_limits,
    )


def _describe(server: ModelServer) -> str:
    config = server.config
    models = ", ".join(f"{name} version {version}" for name, version in server.graphs)
    return (
        f"Ready: {models}. HTTP http://{config.host}:{config.http_port}, gRPC "
        f"{config.host}:{config.grpc_port}, metrics http://{config.host}:{config.metrics_port}"
        "/metrics. Stop with Ctrl-C."
    )
