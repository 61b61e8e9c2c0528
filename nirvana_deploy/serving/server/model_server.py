"""MLServer with what strangers make necessary: limits, readiness that is true, and a drain."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from mlserver import MLServer, ModelSettings, Settings
from mlserver.errors import InferenceError, MLServerError
from mlserver.handlers import ModelRepositoryHandlers
from mlserver.parallel.errors import WorkerError
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from nirvana_deploy.serving.onnx_signature import TensorSignature
from nirvana_deploy.serving.server.inference_request import RequestReader
from nirvana_deploy.serving.server.mlserver_model import OnnxModel
from nirvana_deploy.serving.server.request_limits import RequestLimits
from nirvana_deploy.serving.server.serve_config import ServeConfig
from nirvana_deploy.serving.server.served_models import ServedGraph, ServedText
from nirvana_deploy.serving.server.text_model import TextModel
from profiles.measuring.environment import count_allowed_cpus
from pruning.errors import NirvanaError

# Of MLServer's routes: those of the protocol. The others load models, or stream.
_UNSERVED = ("repository", "stream", "generate", "docs")
_POLL_SECONDS = 0.1
# How long workers may take to end when all is answered.
_CLOSE_SECONDS = 10


class ModelServer(MLServer):
    """Serves a fixed set of models until it is told to stop. Make it within an event loop."""

    def __init__(
        self, graphs: tuple[ServedGraph, ...], config: ServeConfig, scratch_dir: Path
    ) -> None:
        self._config = config
        self._graphs = graphs
        self._num_open = 0
        self._is_stopping = False
        self._readers = {
            (graph.name, graph.version): RequestReader(
                inputs={tensor.name: tensor for tensor in graph.signature.inputs},
                max_batch_size=graph.max_batch_size,
            )
            for graph in graphs
        }
        super().__init__(_make_settings(config, scratch_dir))

    def _create_servers(self) -> None:
        """Put our own parts in the places that the servers are about to take them from."""
        self._run_inference = self._data_plane.infer
        self._data_plane.ready = self._is_ready
        self._data_plane.infer = self._infer
        self._model_repository_handlers = _FixedRepository(
            repository=self._model_repository, model_registry=self._model_registry
        )
        super()._create_servers()
        app = self._rest_server._app
        app.router.routes = [
            route
            for route in app.router.routes
            if not any(word in route.path for word in _UNSERVED)
        ]
        app.add_exception_handler(RequestValidationError, _refuse_malformed)
        app.add_middleware(RequestLimits, max_body_bytes=self._config.max_body_bytes)

    async def serve(self, say: Callable[[str], None]) -> None:
        """Load the models and serve them; return when all is answered after SIGTERM or SIGINT.

        Raises NirvanaError when a model does not load.
        """
        models = [_make_model_settings(graph, self._config) for graph in self._graphs]
        serving = asyncio.create_task(self.start(models))
        while not serving.done() and not await self._is_ready():
            await asyncio.sleep(_POLL_SECONDS)
        if not serving.done():
            say(_describe(self._graphs, self._config))
        await serving
        if not self._is_stopping:
            raise NirvanaError("The server ended by itself; its log above says why.")

    async def stop(self, sig: int | None = None) -> None:
        """Turn away what is new, answer what is open, then end the workers."""
        if self._is_stopping:
            return
        self._is_stopping = sig is not None
        deadline = asyncio.get_running_loop().time() + self._config.drain_seconds
        while self._num_open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        forced_end = threading.Timer(_CLOSE_SECONDS, _end_by_force)
        forced_end.daemon = True
        forced_end.start()
        await self._rest_server.stop(sig or signal.SIGTERM)
        await self._grpc_server._server.stop(grace=1)
        await self._metrics_server.stop(sig or signal.SIGTERM)
        await self._inference_pool_registry.close()
        forced_end.cancel()

    async def _is_ready(self) -> bool:
        """Tell whether all is loaded and runs: MLServer itself is ready before it has a model."""
        models = await self._model_registry.get_models()
        loaded = sum(model.ready for model in models)
        workers = self._inference_pool_registry._default_pool._workers
        are_up = loaded == len(self._graphs) and len(workers) == self._config.num_workers
        return are_up and not self._is_stopping

    async def _infer(
        self, payload: InferenceRequest, name: str, version: str | None = None
    ) -> InferenceResponse:
        if self._is_stopping:
            raise MLServerError("The server is stopping.", 503)
        if self._num_open >= self._config.max_waiting:
            raise MLServerError(f"{self._num_open} requests are waiting already. Try later.", 503)
        self._num_open += 1
        try:
            # Here, too: a worker is not kept busy with it, and its errors come without a status.
            model = await self._model_registry.get_model(name, version)
            if not model.ready:
                raise MLServerError(f"Model {name} is being loaded. Try later.", 503)
            self._readers[(model.name, model.version)].read(payload)
            return await self._run_inference(payload, name, version)
        except WorkerError as error:
            kind, _, reason = str(error).partition(": ")
            status = 400 if kind.endswith(InferenceError.__name__) else 500
            raise MLServerError(reason if status == 400 else str(error), status) from error
        except RuntimeError as error:  # what MLServer makes of an empty list of workers
            raise MLServerError("A worker is being started again. Try later.", 503) from error
        finally:
            self._num_open -= 1


def _end_by_force() -> None:
    """End what hangs: MLServer waits without an end for a worker that does not answer.

    A worker that was killed while it wrote an answer leaves the lock of all answers taken.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(1)


async def _refuse_malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    """Name the first mistake; FastAPI's own answer gives the whole body back."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    reason = f"{place}: {first['msg']}"
    if "json" not in request.headers.get("content-type", ""):
        reason += ". Send the body as Content-Type: application/json."
    return JSONResponse({"error": reason}, status_code=400)


class _FixedRepository(ModelRepositoryHandlers):
    """Lets no client load or unload a model."""

    async def load(self, name: str) -> NoReturn:
        raise MLServerError("The models of this server are fixed.", 403)

    async def unload(self, name: str) -> NoReturn:
        raise MLServerError("The models of this server are fixed.", 403)


def _make_settings(config: ServeConfig, scratch_dir: Path) -> Settings:
    return Settings(
        host=config.host,
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
        grpc_max_message_length=config.max_body_bytes,
        parallel_workers=config.num_workers,
        metrics_dir=str(scratch_dir / "metrics"),
        environments_dir=str(scratch_dir / "environments"),
        model_repository_root=str(scratch_dir),
        load_models_at_startup=False,
        debug=False,
        server_name="nirvana-deploy",
    )


def _make_model_settings(graph: ServedGraph, config: ServeConfig) -> ModelSettings:
    text = {} if graph.text is None else {"text": _describe_text(graph.text)}
    extra: dict[str, Any] = {
        **text,
        "max_batch_size": graph.max_batch_size,
        "num_threads": config.num_threads or count_allowed_cpus(),
        "inputs": _list_tensors(graph.signature.inputs),
        "outputs": _list_tensors(graph.signature.outputs),
    }
    return ModelSettings(
        name=graph.name,
        implementation=OnnxModel if graph.text is None else TextModel,
        platform="onnxruntime_onnx",
        parameters=ModelParameters(uri=str(graph.path), version=graph.version, extra=extra),
    )


def _describe_text(text: ServedText) -> dict[str, Any]:
    """Return what the text model's process reads, as JSON takes it."""
    return {
        "tokenizer_path": str(text.tokenizer_path),
        "labels": list(text.labels),
        "score_kind": text.score_kind,
        "max_length": text.max_length,
        "pad_id": text.pad_id,
        "pad_token": text.pad_token,
    }


def _list_tensors(tensors: tuple[TensorSignature, ...]) -> list[list[Any]]:
    return [[tensor.name, tensor.data_type, list(tensor.dims)] for tensor in tensors]


def _describe(graphs: tuple[ServedGraph, ...], config: ServeConfig) -> str:
    models = ", ".join(f"{graph.name} version {graph.version}" for graph in graphs)
    return (
        f"Ready: {models}. HTTP http://{config.host}:{config.http_port}, gRPC "
        f"{config.host}:{config.grpc_port}, metrics http://{config.host}:{config.metrics_port}"
        "/metrics. Stop with Ctrl-C."
    )
