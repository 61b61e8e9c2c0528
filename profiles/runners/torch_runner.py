"""Runs a model in torch: eager, with its fused attention (sdpa), or compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from transformers import PreTrainedModel

from exporters.export_config import ExportConfig
from exporters.trace.graph_part import GraphPart
from exporters.trace.list_parts import list_parts
from profiles.runners.runner import Tensors, TensorSpec
from pruning.errors import NirvanaError

TorchMode = Literal["eager", "sdpa", "compile"]
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
        self._run: Callable[..., Any] = torch.compile(module) if mode == "compile" else module

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

        def call() -> Tensors:
            with torch.inference_mode():
                outputs = self._run(*given)
            if device.type != "cpu":
                torch.cuda.synchronize(device)
                return {}
            pairs = zip(names, outputs, strict=True)
            return {name: output.numpy() for name, output in pairs}

        call()
        return call

    def describe(self) -> dict[str, Any]:
        """Say how the model is run."""
        return {
            "runtime": "torch",
            "version": str(torch.__version__),
            "mode": self._mode,
            "attention": self._model.config._attn_implementation,
            "device": str(self._model.device),
            "dtype": str(self._model.dtype),
            "num_threads": torch.get_num_threads(),
        }


def _set_attention(model: PreTrainedModel, kind: str) -> None:
    try:
        model.set_attn_implementation(kind)
    except ValueError as error:
        raise NirvanaError(
            f"{type(model).__name__} has no attention of the kind {kind}: "
            f"{str(error).splitlines()[0]} Choose the mode eager."
        ) from error
    if model.config._attn_implementation != kind:
        raise NirvanaError(
            f"{type(model).__name__} kept its {model.config._attn_implementation} attention, "
            f"{kind} was asked. Choose the mode eager."
        )
