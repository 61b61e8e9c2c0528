"""Writes and reads `config.pbtxt` with tritonclient's own schema, and holds it against an ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nirvana_deploy.serving.onnx_signature import OnnxSignature, TensorSignature, fill_dims
from nirvana_deploy.serving.package_config import PackageConfig
from pruning.errors import MissingExtraError, NirvanaError

CONFIG_NAME = "config.pbtxt"
# A backend's older name, which Triton still takes.
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}
# Of the sample that a model runs before it is ready.
_WARM_UP_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """Say what of a model's configuration its graph does not tell.

    Attributes:
        num_versions: all of them are served; a request that names none gets the last.
        hashes: by file, relative to the model's folder, the SHA-256 that its loader checks.
        profiles: indices of the engine's optimization profiles.
        warm_up_length: tokens of the sample row; None: no warm-up.
    """

    name: str
    backend: str = "onnxruntime"
    num_versions: int = 1
    hashes: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[int, ...] = ()
    warm_up_length: int | None = _WARM_UP_LENGTH


def load_schema() -> Any:
    """Import the schema; raise MissingExtraError without tritonclient or its gRPC part."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ModuleNotFoundError as error:
        raise MissingExtraError("tritonclient", "triton") from error
    except RuntimeError as error:  # what tritonclient makes of a missing grpc
        raise MissingExtraError("The gRPC part of tritonclient", "triton") from error
    return model_config_pb2


def write_config(signature: OnnxSignature, model: ServedModel, config: PackageConfig) -> str:
    """Return the text of `config.pbtxt`."""
    from google.protobuf import text_format

    schema = load_schema()
    message = schema.ModelConfig(
        name=model.name,
        backend=model.backend,
        max_batch_size=config.max_batch_size,
        input=[add_tensor(schema.ModelInput(), tensor) for tensor in signature.inputs],
        output=[add_tensor(schema.ModelOutput(), tensor) for tensor in signature.outputs],
        dynamic_batching=schema.ModelDynamicBatching(
            preferred_batch_size=sorted(config.preferred_batch_sizes),
            max_queue_delay_microseconds=config.max_queue_delay_us,
        ),
        instance_group=[_make_instances(schema, model, config)],
        default_model_filename=MODEL_FILES[model.backend],
    )
    if model.num_versions > 1:
        message.version_policy.all.SetInParent()
    for path, sha256 in sorted(model.hashes.items()):
        message.parameters[f"sha256:{path}"].string_value = sha256
    if model.warm_up_length is not None:
        message.model_warmup.append(_make_warm_up(schema, message, model.warm_up_length))
    return str(text_format.MessageToString(message))


# What a backend loads, by its own default name.
MODEL_FILES = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}


def _make_instances(schema: Any, model: ServedModel, config: PackageConfig) -> object:
    group = schema.ModelInstanceGroup
    kinds = {"auto": group.KIND_AUTO, "cpu": group.KIND_CPU, "gpu": group.KIND_GPU}
    kind = "gpu" if model.backend == "tensorrt" else config.instance_kind
    profiles = [str(number) for number in model.profiles]
    return group(count=config.instance_count, kind=kinds[kind], profile=profiles)


def _make_warm_up(schema: Any, message: Any, length: int) -> Any:
    """Run a row of zeros before the model is ready: the first real request is not the slow one."""
    sample = schema.ModelWarmup(name="one row", batch_size=1, count=1)
    names = [tensor.name for tensor in message.input]
    for tensor in message.input:
        given = sample.inputs[tensor.name]
        given.data_type = tensor.data_type
        given.dims.extend(fill_dims(tensor.name, tensor.dims, length, names))
        given.zero_data = True
    return sample


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


def read_backend(message: Any) -> str:
    """Name the backend of a parsed configuration."""
    return str(message.backend or _PLATFORMS.get(message.platform, message.platform))


def check_config(path: Path, message: Any, signature: OnnxSignature) -> None:
    """Raise NirvanaError where a parsed configuration does not fit its folder or its model."""
    if message.name not in ("", path.parent.name):
        raise NirvanaError(
            f"{path} names the model {message.name!r}, its folder {path.parent.name!r}. Give both "
            "the same name."
        )
    if read_backend(message) not in MODEL_FILES:
        raise NirvanaError(
            f"{path} has backend {message.backend!r} and platform {message.platform!r}; expected "
            f"one of the backends {', '.join(MODEL_FILES)}."
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
        fits = add_tensor(type(tensor)(), by_name[tensor.name])
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


def add_tensor(message: Any, tensor: TensorSignature) -> Any:
    """Fill an input or output of a configuration in place, and return it."""
    message.name = tensor.name
    message.data_type = load_schema().DataType.Value(tensor.data_type)
    # Triton refuses empty dims: a tensor of a number a row is one of width 1, reshaped.
    message.dims.extend(tensor.dims or (1,))
    if not tensor.dims:
        message.reshape.SetInParent()
    return message


def _describe_dims(message: Any) -> str:
    reshaped = f", reshape {list(message.reshape.shape)}" if message.HasField("reshape") else ""
    return f"dims {list(message.dims)}{reshaped}"
