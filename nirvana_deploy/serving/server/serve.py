"""Serves a package on this machine by the Open Inference Protocol, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from nirvana_deploy.serving.server.serve_config import ServeConfig
from nirvana_deploy.serving.server.served_models import list_served_graphs
from pruning.errors import MissingExtraError, NirvanaError


def serve_package(package: Path, config: ServeConfig, say: Callable[[str], None]) -> None:
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
    from nirvana_deploy.serving.server.model_server import ModelServer

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
