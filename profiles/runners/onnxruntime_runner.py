"""Runs ONNX with ONNX Runtime on any provider, so that two models can be timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.io_names import is_past, to_present
from exporters.onnx_session import first_line
from profiles.measuring.environment import count_allowed_cpus
from profiles.runners.execution_providers import find_provider
from profiles.runners.onnx_session import SessionSettings, open_measured_session
from profiles.runners.runner import HOST_SEMANTICS, Ids, Tensors, TensorSpec, make_step_inputs
from pruning.errors import NirvanaError


class OnnxStepper:
    """A session with a cache in its inputs and outputs."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], device: str) -> None:
        """`device` is where the provider keeps the cache: cpu or cuda."""
        import onnxruntime

        self._make_value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._session, self._device = session, device
        self._cache = tuple(spec for spec in inputs if is_past(spec.name))
        self._tokens = tuple(spec for spec in inputs if spec not in self._cache)
        self._past: dict[str, object] = {}
        self._num_past = 0

    def start(self, batch: int) -> None:
        """Empty the cache; see `Stepper.start`."""
        self._num_past = 0
        self._past = {
            spec.name: self._make_value(_make_empty(spec, batch), self._device, 0)
            for spec in self._cache
        }

    def step(self, ids_BS: Ids) -> Ids:
        """Run the next tokens; see `Stepper.step`."""
        names = tuple(spec.name for spec in self._tokens)
        given = make_step_inputs(names, ids_BS, self._num_past)
        binding = self._session.io_binding()
        for spec in self._tokens:
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(given[spec.name], spec.dtype))
        for name, value in self._past.items():
            binding.bind_ortvalue_input(name, value)
        outputs = [to_present(name) for name in self._past]
        binding.bind_output("logits", "cpu")
        for name in outputs:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        self._past = dict(zip(self._past, present, strict=True))
        self._num_past += ids_BS.shape[1]
        likeliest_B: np.ndarray[Any, Any] = logits.numpy()[:, -1:].argmax(-1)
        return likeliest_B


def _make_empty(spec: TensorSpec, batch: int) -> NDArray[Any]:
    """Return a cache of no tokens: [batch, heads, 0, head width], as the graph's own sizes say."""
    heads, width = spec.shape[1], spec.shape[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise NirvanaError(
            f"The cache {spec.name!r} has shape {list(spec.shape)}. Expected [batch, heads, past, "
            "head width] with heads and width as numbers. Export it again."
        )
    return np.zeros((batch, heads, 0, width), spec.dtype)


_DTYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class OnnxRuntimeRunner:
    """An ONNX model in a session on one provider."""

    def __init__(
        self,
        onnx_path: Path,
        *,
        name: str = "model",
        num_threads: int | None = None,
        provider: str = "cpu",
        provider_options: Mapping[str, str] | None = None,
        provider_cache: Path | None = None,
        profile_prefix: Path | None = None,
    ) -> None:
        """Load the model; external data is found beside it.

        What a provider compiles is kept in `provider_cache` (see `SessionSettings`).
        With `profile_prefix` ONNX Runtime's own profiler runs too, until `end_profiling`.
        Inputs and outputs are in host memory, also where the provider is a GPU's: copies count.

        Raises MissingExtraError without ONNX Runtime, NirvanaError for a file that is missing or
        that it does not take, and for a provider that is not there.
        """
        self._name = name
        self._path = onnx_path
        self._num_threads = num_threads or count_allowed_cpus()
        self._provider = find_provider(provider)
        self._options = dict(provider_options or {})
        self._cache = provider_cache
        settings = SessionSettings(
            num_threads=self._num_threads,
            provider=provider,
            options=self._options,
            cache_dir=provider_cache,
            profile_prefix=profile_prefix,
        )
        self._session = open_measured_session(onnx_path, settings)
        self._inputs = tuple(_read_spec(node) for node in self._session.get_inputs())

    @property
    def name(self) -> str:
        """Name the model in messages."""
        return self._name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """List what the model takes."""
        return self._inputs

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        """Run once, then bind inputs and outputs to buffers; see `Runner.bind`."""
        outputs = self._run_first(inputs)
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return _BoundRun(self._session, binding, inputs, outputs)

    def describe(self) -> dict[str, object]:
        """Say how the model is run."""
        return {
            "runtime": "ONNX Runtime",
            "provider": self._provider.name,
            **({"provider_options": self._options} if self._options else {}),
            **({"provider_cache": str(self._cache)} if self._cache else {}),
            "num_threads": self._num_threads,
            "graph_optimisation": "all",
            "threads_spin_between_runs": False,
            "buffers_bound": True,
            **({"gpu": None} if self._provider.is_gpu else {}),
            "semantics": HOST_SEMANTICS,
        }

    def make_stepper(self) -> OnnxStepper:
        """Return the model as one that generates; see `open_stepper`."""
        device = "cuda" if self._provider.is_gpu else "cpu"
        return OnnxStepper(self._session, self._inputs, device)

    def end_profiling(self) -> Path:
        """Stop ONNX Runtime's profiler; return the file that it wrote."""
        return Path(self._session.end_profiling())

    def _run_first(self, inputs: Tensors) -> dict[str, Any]:
        names = [output.name for output in self._session.get_outputs()]
        try:
            outputs = self._session.run(names, dict(inputs))
        except Exception as error:  # ONNX Runtime's errors have no base of their own.
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise NirvanaError(
                f"ONNX Runtime cannot run {self._path} on {shapes}: {first_line(error)} Check "
                "that length is within the model's positions and vocab_size within its vocabulary."
            ) from error
        arrays = (np.ascontiguousarray(output) for output in outputs)
        return dict(zip(names, arrays, strict=True))


@dataclass(frozen=True, slots=True)
class _BoundRun:
    """Runs a session; holds the arrays, because the binding has only their addresses."""

    session: Any
    binding: object
    inputs: Tensors
    outputs: Tensors

    def __call__(self) -> Tensors:
        self.session.run_with_iobinding(self.binding)
        return self.outputs


def _read_spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise NirvanaError(
            f"The model's input {node.name!r} is of type {node.type}; known types: "
            f"{', '.join(_DTYPES)}."
        )
    return TensorSpec(name=node.name, dtype=np.dtype(_DTYPES[node.type]), shape=tuple(node.shape))
