"""Runs a TensorRT or TensorRT-RTX engine for a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.engines.bound_engine import BoundEngine
from exporters.engines.engine_device import EngineDevice
from exporters.engines.engine_runner import EngineRunner
from exporters.io_names import CACHE_PREFIXES
from profiles.runners.runner import Tensors, TensorSpec

_SEMANTICS = (
    "ours: end to end from the caller: tokens copied to the GPU, run, outputs copied back, waited "
    "for; a decoder's cache stays on the GPU; parts named as trtexec's"
)


class EngineFolderRunner:
    """An engine on this machine's GPU."""

    def __init__(
        self,
        engine_dir: Path,
        *,
        name: str = "model",
        cuda_graph: bool = False,
        device: EngineDevice | None = None,
    ) -> None:
        """Load the engine; for what it raises see `EngineRunner`."""
        self._name, self._cuda_graph = name, cuda_graph
        self._engine = EngineRunner(engine_dir, cuda_graph=cuda_graph, device=device)

    @property
    def name(self) -> str:
        """Name the model in messages."""
        return self._name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """List what the engine takes; a free dimension is None."""
        return tuple(
            TensorSpec(
                name=name,
                dtype=_find_dtype(self._engine.dtype(name)),
                shape=tuple(None if size == -1 else size for size in self._engine.shape(name)),
            )
            for name in self._engine.input_names
        )

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        """Set buffers aside and run once; see `Runner.bind`. Each call has its own context."""
        names = (*self._engine.input_names, *self._engine.output_names)
        resident = frozenset(name for name in names if name.startswith(CACHE_PREFIXES))
        return _EngineCall(self._engine.bind(inputs, resident=resident))

    def describe(self) -> dict[str, object]:
        """Say how the engine is run."""
        result = self._engine.manifest.result
        return {
            "runtime": result.flavour,
            "version": result.version,
            "device": self._engine.device.name,
            "gpu": self._engine.device.uuid,
            "precision": result.precision_asked,
            "cuda_graph": self._cuda_graph,
            "buffers_bound": True,
            "semantics": _SEMANTICS,
        }


class _EngineCall:
    def __init__(self, bound: BoundEngine) -> None:
        self._bound = bound

    def __call__(self) -> Tensors:
        outputs = self._bound()
        return {n: t.numpy() for n, t in outputs.items() if t.dtype != torch.bfloat16}

    def read_parts(self) -> Mapping[str, float]:
        """Return where the last run's time went."""
        return self._bound.read_parts()


def _find_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    # numpy has no bfloat16: the runner rounds to it.
    named = "float32" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")
    return np.dtype(named)
