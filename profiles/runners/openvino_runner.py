"""Runs an ONNX file by OpenVINO on the CPU: https://docs.openvino.ai, CPU device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from profiles.measuring.environment import count_allowed_cpus
from profiles.runners.run_config import InferencePrecision
from profiles.runners.runner import HOST_SEMANTICS, Tensors, TensorSpec
from pruning.errors import MissingExtraError, NirvanaError

_DEVICE = "CPU"
# As OpenVINO lists what a device computes in, and as it takes the hint.
_CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}


class OpenVinoRunner:
    """An ONNX model that OpenVINO has compiled for this CPU."""

    def __init__(
        self,
        onnx_path: Path,
        *,
        name: str = "model",
        num_threads: int | None = None,
        precision: InferencePrecision = "f32",
    ) -> None:
        """Compile the model; external data is found beside it.

        Raises:
            MissingExtraError: OpenVINO is not installed.
            NirvanaError: it does not take the model, or this CPU does not compute in `precision`.
        """
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("OpenVINO", "openvino") from error
        if not onnx_path.is_file():
            raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to profile.")
        self._name, self._path, self._precision = name, onnx_path, precision
        self._num_threads = num_threads or count_allowed_cpus()
        core: Any = openvino.Core()
        able = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if _CAPABILITIES[precision] not in able:
            known = [name for name, told in _CAPABILITIES.items() if told in able]
            raise NirvanaError(
                f"This CPU does not compute in {precision}; OpenVINO says it does in "
                f"{', '.join(known)}. Set inference_precision to one of them."
            )
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": self._num_threads,
            "NUM_STREAMS": 1,
        }
        try:
            self._model: Any = core.compile_model(core.read_model(onnx_path), _DEVICE, settings)
        except Exception as error:  # a RuntimeError of many lines
            raise NirvanaError(
                f"OpenVINO does not take {onnx_path}: {_find_reason(error)} Run it by ONNX "
                "Runtime, or export it in another form."
            ) from error
        self._openvino: Any = openvino

    @property
    def name(self) -> str:
        """Name the model in messages."""
        return self._name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """List what the model takes."""
        return tuple(
            TensorSpec(
                name=port.get_any_name(),
                dtype=np.dtype(port.get_element_type().to_dtype()),
                shape=tuple(
                    None if dim.is_dynamic else dim.get_length() for dim in port.partial_shape
                ),
            )
            for port in self._model.inputs
        )

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        """Run once with the inputs bound; see `Runner.bind`.

        Raises:
            NirvanaError: OpenVINO cannot run the model on these inputs, or computes NaN.
        """
        request = self._model.create_infer_request()
        try:
            for name, array in inputs.items():
                request.set_tensor(name, self._openvino.Tensor(array, shared_memory=True))
            request.infer()
        except Exception as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise NirvanaError(
                f"OpenVINO cannot run {self._path} on {shapes}: {_find_reason(error)} Check that "
                "length is within the model's positions and vocab_size within its vocabulary."
            ) from error
        # Its own buffers may be given away: what a request writes into is ours.
        outputs = {
            port.get_any_name(): np.array(request.get_tensor(port).data)
            for port in self._model.outputs
        }
        for name, array in outputs.items():
            request.set_tensor(name, self._openvino.Tensor(array, shared_memory=True))
        request.infer()
        for name, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NirvanaError(
                    f"{self._path} gives NaN or infinity in {name} by OpenVINO in "
                    f"{self._precision}: its speed says nothing. Set inference_precision to f32, "
                    "or run it by ONNX Runtime."
                )
        return _BoundRequest(request, inputs, outputs)

    def describe(self) -> dict[str, object]:
        """Say how the model is run."""
        return {
            "runtime": "OpenVINO",
            "version": version("openvino"),
            "precision": self._precision,
            "num_threads": self._num_threads,
            "performance_hint": "latency",
            "num_streams": 1,
            "buffers_bound": True,
            "semantics": HOST_SEMANTICS,
        }


@dataclass(frozen=True, slots=True)
class _BoundRequest:
    """Runs a request; holds the arrays, because the request has only their addresses."""

    request: Any
    inputs: Tensors
    outputs: Tensors

    def __call__(self) -> Tensors:
        self.request.infer()
        return self.outputs


def _find_reason(error: Exception) -> str:
    """Return the line of OpenVINO's message that says what is wrong, without its own sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '", "src/"))]
    return (told or lines or [type(error).__name__])[-1].rstrip(".") + "."
