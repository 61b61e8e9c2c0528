"""Runs a model in torch: eager, with its fused attention (sdpa), or compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import torch
from transformers import PreTrainedModel

from exporters.export_config import ExportConfig
from exporters.io_names import is_past
from exporters.onnx_session import first_line
from exporters.trace.graph_part import GraphPart, GraphTensor
from exporters.trace.list_parts import list_parts
from profiles.runners.run_config import TorchMode
from profiles.runners.runner import HOST_SEMANTICS, Ids, Tensors, TensorSpec, make_step_inputs
from pruning.errors import NirvanaError


class TorchStepper:
    """A graph part with a cache in its inputs and outputs; the cache grows by concatenation."""

    def __init__(self, part: GraphPart, run: Callable[..., Any], device: torch.device) -> None:
        self._run, self._device = run, device
        self._cache = tuple(t for t in part.inputs if is_past(t.name))
        self._tokens = tuple(t.name for t in part.inputs if not is_past(t.name))
        self._past: list[torch.Tensor] = []
        self._num_past = 0

    def start(self, batch: int) -> None:
        """Empty the cache; see `Stepper.start`."""
        self._num_past = 0
        self._past = [
            torch.zeros(_size_empty(tensor, batch), dtype=tensor.dtype, device=self._device)
            for tensor in self._cache
        ]

    def step(self, ids_BS: Ids) -> Ids:
        """Run the next tokens; see `Stepper.step`."""
        given = make_step_inputs(self._tokens, ids_BS, self._num_past)
        tokens = [torch.from_numpy(given[name]).to(self._device) for name in self._tokens]
        with torch.inference_mode():
            logits, *present = self._run(*tokens, *self._past)
            chosen = logits[:, -1:].argmax(-1)
        self._past = present
        self._num_past += ids_BS.shape[1]
        found: Ids = chosen.cpu().numpy()  # waits for a GPU
        return found


def _size_empty(tensor: GraphTensor, batch: int) -> tuple[int, ...]:
    _, heads, _, width = tensor.shape
    return batch, int(heads), 0, int(width)


_CUDA_SEMANTICS = "ours: from the call until the GPU is done, inputs and outputs stay on the GPU"
_DTYPES: dict[torch.dtype, Any] = {
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float16: np.float16,
}


class TorchRunner:
    """A torch model that takes and gives what its exported graph does."""

    def __init__(
        self, model: PreTrainedModel, *, mode: TorchMode = "sdpa", name: str = "model"
    ) -> None:
        """Set up `model` where it is, in place: its attention is that of the mode afterwards.

        "compile" is torch.compile over sdpa. The threads are torch's own (torch.set_num_threads).

        Raises:
            NirvanaError: there is no such mode, the model's weights are of another type than
                float32 or float16, or its class has no sdpa.
        """
        if mode not in get_args(TorchMode):
            raise NirvanaError(f"mode must be one of eager, sdpa, compile, got {mode!r}.")
        if model.dtype not in _DTYPES:
            raise NirvanaError(
                f"TorchRunner takes inputs of numpy, which has no {model.dtype}. Convert the model "
                "to float32 or float16."
            )
        _set_attention(model, "eager" if mode == "eager" else "sdpa")
        self._name, self._mode, self._model = name, mode, model
        self._part: GraphPart = list_parts(model, ExportConfig())[-1]
        module = self._part.module
        self._run: Callable[..., object] = torch.compile(module) if mode == "compile" else module

    @property
    def name(self) -> str:
        """Name the model in messages."""
        return self._name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """List what the model takes: the inputs of its exported graph."""
        return tuple(
            TensorSpec(name=t.name, dtype=np.dtype(_DTYPES[t.dtype]), shape=t.shape)
            for t in self._part.inputs
        )

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        """Move the inputs to the model's device and run once; see `Runner.bind`.

        The call ends when the device is done. Its outputs stay there: they are numpy arrays only
        on the CPU, elsewhere none are returned.
        """
        device = self._model.device
        given = [torch.from_numpy(inputs[t.name]).to(device) for t in self._part.inputs]
        names = [tensor.name for tensor in self._part.outputs]
        call: Callable[[], Tensors]
        if device.type == "cpu":
            call = _HostCall(self._run, given, names)
        else:
            call = _CudaCall(self._run, given)
        try:
            call()
        except (RuntimeError, IndexError, ValueError) as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise NirvanaError(
                f"torch cannot run {self._name} on {shapes}: {first_line(error)} Check "
                "that length is within the model's positions and vocab_size within its vocabulary."
            ) from error
        return call

    def make_stepper(self) -> TorchStepper:
        """Return the model as one that generates; see `open_stepper`."""
        return TorchStepper(self._part, self._run, self._model.device)

    def describe(self) -> dict[str, object]:
        """Say how the model is run."""
        return {
            "runtime": "torch",
            "version": str(torch.__version__),
            "mode": self._mode,
            "attention": self._model.config._attn_implementation,
            "device": str(self._model.device),
            **_describe_gpu(self._model.device),
            "dtype": str(self._model.dtype),
            "num_threads": torch.get_num_threads(),
            "semantics": HOST_SEMANTICS if self._model.device.type == "cpu" else _CUDA_SEMANTICS,
        }


def _describe_gpu(device: torch.device) -> dict[str, str]:
    if device.type == "cpu":
        return {}
    return {"gpu": f"GPU-{torch.cuda.get_device_properties(device).uuid}"}


class _HostCall:
    """Runs a module on the CPU; the tensors that it returns are new each time."""

    def __init__(self, run: Callable[..., Any], given: list[torch.Tensor], names: list[str]):
        self._run, self._given, self._names = run, given, names

    def __call__(self) -> Tensors:
        with torch.inference_mode():
            outputs = self._run(*self._given)
        pairs = zip(self._names, outputs, strict=True)
        return {name: output.numpy() for name, output in pairs}


class _CudaCall:
    """Runs a module on a GPU, on torch's stream, between two events."""

    def __init__(self, run: Callable[..., object], given: list[torch.Tensor]) -> None:
        self._run, self._given = run, given
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._enqueue_ms = 0.0

    def __call__(self) -> Tensors:
        self._begin.record()
        started = time.perf_counter()
        with torch.inference_mode():
            self._run(*self._given)
        self._enqueue_ms = (time.perf_counter() - started) * 1000
        self._end.record()
        self._end.synchronize()
        return {}

    def read_parts(self) -> Mapping[str, float]:
        """Return the device's and the host's milliseconds of the last run."""
        elapsed_ms = float(self._begin.elapsed_time(self._end))
        return {"gpu_compute_ms": elapsed_ms, "enqueue_ms": self._enqueue_ms}


def _set_attention(model: PreTrainedModel, kind: str) -> None:
    try:
        model.set_attn_implementation(kind)
    except ValueError as error:
        raise NirvanaError(
            f"{type(model).__name__} has no attention of the kind {kind}: "
            f"{first_line(error)} Choose the mode eager."
        ) from error
    if model.config._attn_implementation != kind:
        raise NirvanaError(
            f"{type(model).__name__} kept its {model.config._attn_implementation} attention, "
            f"{kind} was asked. Choose the mode eager."
        )
