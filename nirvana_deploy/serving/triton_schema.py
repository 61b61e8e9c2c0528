"""Writes and reads `config.pbtxt` with tritonclient's own schema, and holds it against an ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nirvana_deploy.serving.onnx_signature import OnnxSignature, TensorSignature
from nirvana_deploy.serving.package_config import PackageConfig
from pruning.errors import MissingExtraError, NirvanaError

CONFIG_NAME = "config.pbtxt"
_BACKEND = "onnxruntime"
_PLATFORM = "onnxruntime_onnx"


def load_schema() -> Any:
    """Import the schema; raise MissingExtraError without tritonclient or its gRPC part."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ModuleNotFoundError as error:
        raise MissingExtraError("tritonclient", "triton") from error
    except RuntimeError as error:  # what tritonclient makes of a missing grpc
        raise MissingExtraError("The gRPC part of tritonclient", "triton") from error
    return model_config_pb2


def write_config(signature: OnnxSignature, config: PackageConfig) -> str:
    """Return the text of `config.pbtxt`."""
    from google.protobuf import text_format

    schema = load_schema()
    group = schema.ModelInstanceGroup
    kinds = {"auto": group.KIND_AUTO, "cpu": group.KIND_CPU, "gpu": group.KIND_GPU}
    message = schema.ModelConfig(
        name=config.model_name,
        backend=_BACKEND,
        max_batch_size=config.max_batch_size,
        input=[_fill(schema, schema.ModelInput(), tensor) for tensor in signature.inputs],
        output=[_fill(schema, schema.ModelOutput(), tensor) for tensor in signature.outputs],
        dynamic_batching=schema.ModelDynamicBatching(
            preferred_batch_size=sorted(config.preferred_batch_sizes),
            max_queue_delay_microseconds=config.max_queue_delay_us,
        ),
        instance_group=[group(count=config.instance_count, kind=kinds[config.instance_kind])],
    )
    return text_format.MessageToString(message)


def read_config_file(path: Path) -> Any:
    """Parse a `config.pbtxt`; raise NirvanaError with line and column for what is not in it."""
    from google.protobuf import text_format

    schema = load_schema()
    if not path.is_file():
        raise NirvanaError(f"{path} is missing: each folder of a model repository needs one.")
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), schema.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise NirvanaError(f"{path} is not a model configuration of Triton: {error}") from error


def check_config(path: Path, message: Any, signature: OnnxSignature) -> None:
    """Raise NirvanaError where a parsed configuration does not fit its folder or its model."""
    if message.name not in ("", path.parent.name):
        raise NirvanaError(
            f"{path} names the model {message.name!r}, its folder {path.parent.name!r}. Give both "
            "the same name."
        )
    if message.backend != _BACKEND and message.platform != _PLATFORM:
        raise NirvanaError(
            f"{path} has backend {message.backend!r} and platform {message.platform!r}; an ONNX "
            f"model needs backend {_BACKEND!r}."
        )
    if message.max_batch_size < 1:
        raise NirvanaError(
            f"{path} has max_batch_size {message.max_batch_size}; the model is batched: expected 1 "
            "or more."
        )
    for size in message.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= message.max_batch_size:
            raise NirvanaError(
                f"{path} has preferred_batch_size {size}; expected 1 to max_batch_size "
                f"({message.max_batch_size})."
            )
    _check_tensors(path, "input", message.input, signature.inputs)
    _check_tensors(path, "output", message.output, signature.outputs)


def _check_tensors(
    path: Path, kind: str, found: Sequence[Any], expected: Iterable[TensorSignature]
) -> None:
    schema = load_schema()
    by_name = {tensor.name: tensor for tensor in expected}
    names = [tensor.name for tensor in found]
    if sorted(names) != sorted(by_name):
        raise NirvanaError(
            f"{path} lists the {kind}s {', '.join(names) or 'none'}; the ONNX graph has "
            f"{', '.join(by_name)}."
        )
    for tensor in found:
        fits = _fill(schema, type(tensor)(), by_name[tensor.name])
        if tensor.data_type != fits.data_type:
            raise NirvanaError(
                f"{path}: {kind} {tensor.name} has data_type "
                f"{schema.DataType.Name(tensor.data_type)}; in the ONNX graph it is "
                f"{schema.DataType.Name(fits.data_type)}."
            )
        if _describe_dims(tensor) != _describe_dims(fits):
            raise NirvanaError(
                f"{path}: {kind} {tensor.name} has {_describe_dims(tensor)}; the ONNX graph needs "
                f"{_describe_dims(fits)}, the batch left out."
            )


def _fill(schema: Any, message: Any, tensor: TensorSignature) -> Any:
    message.name = tensor.name
    message.data_type = schema.DataType.Value(tensor.data_type)
    # Triton refuses empty dims: a tensor of a number a row is one of width 1, reshaped.
    message.dims.extend(tensor.dims or (1,))
    if not tensor.dims:
        message.reshape.SetInParent()
    return message


def _describe_dims(message: Any) -> str:
    reshaped = f", reshape {list(message.reshape.shape)}" if message.HasField("reshape") else ""
    return f"dims {list(message.dims)}{reshaped}"
