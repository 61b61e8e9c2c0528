"""The Open Inference Protocol over gRPC: messages by tritonclient, server by grpcio."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

from nirvana_deploy.serving.server.http_service import SERVER_NAME, describe_tensor
from nirvana_deploy.serving.server.inference_request import (
    WIRE_TYPES,
    GivenTensor,
    InferRequest,
    RefusedError,
    refuse_extensions,
)
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    from nirvana_deploy.serving.server.model_server import ModelServer

# By the protocol's type, the field of a message that holds its numbers.
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# A client that called nothing for so long connects anew when it does.
_IDLE_MS = 300_000
_STOP_SECONDS = 1.0


class GrpcServer:
    """Listens on the server's gRPC port."""

    def __init__(self, server: ModelServer, max_connections: int) -> None:
        config = server.config
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", 1000 * config.header_seconds),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                ("grpc.max_allowed_incoming_connections", max_connections),
            ],
            interceptors=(_MessageReader(),),
            maximum_concurrent_rpcs=2 * config.max_waiting,
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(server), self._server)
        self._address = f"{config.host}:{config.grpc_port}"
        if ":" in config.host:
            self._address = f"[{config.host}]:{config.grpc_port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            NirvanaError: the port cannot be had.
        """
        try:
            self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise NirvanaError(
                f"Cannot listen on {self._address}. Free it, or choose another grpc_port."
            ) from error
        await self._server.start()

    async def stop(self) -> None:
        """End open calls, and return."""
        await self._server.stop(_STOP_SECONDS)


class _MessageReader(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Reads messages in the place of grpcio, which answers for those that it cannot read with
    UNKNOWN and the name of a Python class, and likewise for calls that are not served.
    """

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return what answers a call."""
        name = details.method.rpartition("/")[2]
        if name not in vars(_Service):
            return grpc.unary_unary_rpc_method_handler(_refuse_call)
        handler = await continuation(details)
        if handler is None:  # the same name in a service of another protocol
            return None

        async def answer(body: bytes, context: Any) -> object:
            try:
                message = handler.request_deserializer(body)
            except DecodeError:
                reason = f"The body of {len(body)} bytes is no message of {name}."
                await _abort(context, RefusedError(reason))
            return await handler.unary_unary(message, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, response_serializer=handler.response_serializer
        )


async def _refuse_call(_body: bytes, context: Any) -> NoReturn:
    served = ", ".join(name for name in vars(_Service) if not name.startswith("_"))
    reason = f"This server does not have the call; it has {served}."
    await _abort(context, RefusedError(reason, 501))


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The protocol's calls, under the names that its definition gives them."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    async def ServerLive(self, request: object, context: object) -> object:  # noqa: N802
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(self, request: object, context: object) -> object:  # noqa: N802
        return messages.ServerReadyResponse(ready=self._server.is_ready)

    async def ModelReady(self, request: Any, context: object) -> object:  # noqa: N802
        try:
            self._server.find(request.name, request.version)
        except RefusedError as error:
            await _abort(context, error)
        return messages.ModelReadyResponse(ready=self._server.is_ready)

    async def ServerMetadata(self, request: object, context: object) -> object:  # noqa: N802
        return messages.ServerMetadataResponse(name=SERVER_NAME, version=version("nirvana-deploy"))

    async def ModelMetadata(self, request: Any, context: object) -> object:  # noqa: N802
        try:
            graph = self._server.find(request.name, request.version)
        except RefusedError as error:
            await _abort(context, error)
        described = messages.ModelMetadataResponse(name=graph.name, platform="onnxruntime_onnx")
        versions = (key[1] for key in self._server.graphs if key[0] == graph.name)
        described.versions.extend(sorted(versions, key=int))
        for tensor in graph.signature.inputs:
            described.inputs.add(**describe_tensor(tensor))
        for tensor in graph.signature.outputs:
            described.outputs.add(**describe_tensor(tensor))
        return described

    async def ModelInfer(self, request: Any, context: object) -> object:  # noqa: N802
        try:
            asked = _read(request)
            graph, outputs = await self._server.infer(
                request.model_name, request.model_version, asked
            )
        except RefusedError as error:
            await _abort(context, error)
        answer = messages.ModelInferResponse(
            model_name=graph.name, model_version=graph.version, id=request.id
        )
        for name, array in outputs.items():
            datatype = WIRE_TYPES[str(array.dtype)]
            answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
            answer.raw_output_contents.append(_pack(array))
        return answer

    async def RepositoryModelLoad(self, request: object, context: object) -> object:  # noqa: N802
        await _abort(context, RefusedError("The models of this server are fixed.", 403))

    async def RepositoryModelUnload(self, request: object, context: object) -> object:  # noqa: N802
        await _abort(context, RefusedError("The models of this server are fixed.", 403))


async def _abort(context: Any, error: RefusedError) -> NoReturn:
    await context.abort(_CODES.get(error.status, grpc.StatusCode.INTERNAL), str(error))
    raise AssertionError  # abort has raised already


def _read(request: Any) -> InferRequest:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise RefusedError(
            f"The request has {len(request.inputs)} inputs and the raw contents of {len(raw)}."
        )
    inputs = []
    for tensor in (*request.inputs, *request.outputs):
        refuse_extensions(tensor.name, tensor.parameters)
    for number, given in enumerate(request.inputs):
        if raw and given.HasField("contents"):
            raise RefusedError(f"{given.name} has contents and raw contents; send one of them.")
        field = _FIELDS.get(given.datatype)
        if raw:
            data: object = raw[number]
        elif field is None:
            raise RefusedError(f"{given.name} of type {given.datatype} needs raw contents.")
        else:
            data = list(getattr(given.contents, field))
        inputs.append(
            GivenTensor(
                name=given.name, datatype=given.datatype, shape=tuple(given.shape), data=data
            )
        )
    outputs = tuple(output.name for output in request.outputs)
    return InferRequest(inputs=tuple(inputs), outputs=outputs, id=request.id)


def _pack(array: Any) -> bytes:
    if array.dtype != object:
        packed: bytes = np.ascontiguousarray(array).tobytes()
        return packed
    rows = (text.encode() for text in array.reshape(-1))
    return b"".join(len(row).to_bytes(4, "little") + row for row in rows)
