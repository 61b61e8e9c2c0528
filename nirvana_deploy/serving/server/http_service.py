"""The Open Inference Protocol over HTTP, and Prometheus metrics: Starlette on uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nirvana_deploy.serving.onnx_signature import TensorSignature
from nirvana_deploy.serving.server.inference_request import (
    WIRE_TYPES,
    GivenTensor,
    InferRequest,
    RefusedError,
    refuse_extensions,
)
from nirvana_deploy.serving.server.request_limits import BACKLOG, RequestLimits, make_protocol_class
from nirvana_deploy.serving.server.serve_config import ServeConfig
from nirvana_deploy.serving.server.served_models import ServedGraph

if TYPE_CHECKING:
    from nirvana_deploy.serving.server.model_server import ModelServer

SERVER_NAME = "nirvana-deploy"
# Of the protocol's extension for tensors behind the JSON, as tritonclient sends them.
_JSON_LENGTH = "inference-header-content-length"


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: object = None
    parameters: dict[str, object] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, object] = {}


class _Body(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] = []
    id: str = ""


_DECODER = msgspec.json.Decoder(_Body)


def make_app(server: ModelServer) -> Starlette:
    """Return the protocol's routes; every error is JSON with its reason."""
    routes = _Routes(server)
    model = "/v2/models/{name}"
    paths = [
        ("/v2", routes.describe_server, "GET"),
        ("/v2/health/live", routes.is_live, "GET"),
        ("/v2/health/ready", routes.is_ready, "GET"),
        *(
            (f"{prefix}{path}", endpoint, method)
            for prefix in (model, f"{model}/versions/{{version}}")
            for path, endpoint, method in (
                ("", routes.describe_model, "GET"),
                ("/ready", routes.is_model_ready, "GET"),
                ("/infer", routes.infer, "POST"),
            )
        ),
    ]
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for path, endpoint, method in paths],
        middleware=[Middleware(RequestLimits, max_body_bytes=server.config.max_body_bytes)],
        exception_handlers={RefusedError: _refuse},
    )


def make_metrics(registry: CollectorRegistry) -> Starlette:
    """Return the application of the metrics' port."""

    async def answer(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", answer)])


def _refuse(_: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, RefusedError) else 500
    return JSONResponse({"error": str(error)}, status_code=status)


class _Routes:
    """The protocol's endpoints, in the order of its specification."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    async def describe_server(self, _: Request) -> Response:
        return JSONResponse(
            {"name": SERVER_NAME, "version": version("nirvana-deploy"), "extensions": []}
        )

    async def is_live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def is_ready(self, _: Request) -> Response:
        ready = self._server.is_ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def is_model_ready(self, request: Request) -> Response:
        self._find(request)
        return await self.is_ready(request)

    async def describe_model(self, request: Request) -> Response:
        graph = self._find(request)
        versions = [key[1] for key in self._server.graphs if key[0] == graph.name]
        described = {
            "name": graph.name,
            "versions": sorted(versions, key=int),
            "platform": "onnxruntime_onnx",
            "inputs": [describe_tensor(tensor) for tensor in graph.signature.inputs],
            "outputs": [describe_tensor(tensor) for tensor in graph.signature.outputs],
        }
        return JSONResponse(described)

    async def infer(self, request: Request) -> Response:
        graph = self._find(request)
        asked = read_body(await request.body(), request.headers)
        graph, outputs = await self._server.infer(graph.name, graph.version, asked)
        answer: dict[str, object] = {"model_name": graph.name, "model_version": graph.version}
        if asked.id:
            answer["id"] = asked.id
        for name, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise RefusedError(
                    f"The model's output {name} has NaN or infinity, which JSON cannot hold. "
                    "Check the model, or ask by gRPC.",
                    500,
                )
        answer["outputs"] = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": WIRE_TYPES[str(array.dtype)],
                "data": array.reshape(-1).tolist(),
            }
            for name, array in outputs.items()
        ]
        return Response(msgspec.json.encode(answer), media_type="application/json")

    def _find(self, request: Request) -> ServedGraph:
        named = request.path_params
        return self._server.find(named["name"], named.get("version", ""))


def describe_tensor(tensor: TensorSignature) -> dict[str, object]:
    """Return a tensor as the protocol's metadata have it, with the free batch."""
    return {"name": tensor.name, "datatype": tensor.wire_type, "shape": [-1, *tensor.dims]}


def read_body(body: bytes, headers: Any) -> InferRequest:
    """Read a request's body: JSON, and tensors behind it where a header gives its length.

    Raises:
        RefusedError: it is neither.
    """
    length = headers.get(_JSON_LENGTH)
    if length is None and "json" not in headers.get("content-type", ""):
        raise RefusedError("Send the body as Content-Type: application/json.")
    is_length = length is not None and length.isdecimal() and len(length) < 20
    if length is not None and not (is_length and int(length) <= len(body)):
        raise RefusedError(
            f"Inference-Header-Content-Length is {length[:40]}, the body {len(body)}."
        )
    end = len(body) if length is None else int(length)
    try:
        parsed = _DECODER.decode(body[:end])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RefusedError(f"The body cannot be read: {error}.") from error
    except RecursionError as error:
        raise RefusedError("The body cannot be read: it is nested too deep.") from error
    named: list[_Input | _Output] = [*parsed.inputs, *parsed.outputs]
    for tensor in named:
        refuse_extensions(tensor.name, tensor.parameters)
    tensors = _Tail(body[end:])
    inputs = tuple(
        GivenTensor(
            name=each.name,
            datatype=each.datatype,
            shape=tuple(each.shape),
            data=tensors.take(each.name, each.data, each.parameters.get("binary_data_size")),
        )
        for each in parsed.inputs
    )
    if tensors.rest:
        raise RefusedError(f"{len(tensors.rest)} bytes of the body belong to no input.")
    outputs = tuple(output.name for output in parsed.outputs)
    return InferRequest(inputs=inputs, outputs=outputs, id=parsed.id)


class _Tail:
    """The bytes behind the JSON, which belong to the inputs in their order."""

    def __init__(self, rest: bytes) -> None:
        self.rest = rest

    def take(self, name: str, data: object, size: object) -> object:
        if size is None:
            if data is None:
                raise RefusedError(f"{name} has no data.")
            return data
        if type(size) is not int or not 0 <= size <= len(self.rest) or data is not None:
            raise RefusedError(
                f"{name} says that it has {size!r} bytes behind the JSON; there are "
                f"{len(self.rest)}."
            )
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: they end more than this server."""
        yield


class HttpServer:
    """Runs one application on one port."""

    def __init__(
        self, app: Starlette, config: ServeConfig, port: int, max_connections: int
    ) -> None:
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                host=config.host,
                port=port,
                http=make_protocol_class(config, max_connections),
                ws="none",
                lifespan="off",
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=1,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when it listens; raise what keeps it from it."""
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.01)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Close the connections that nothing is answered on, and return."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
