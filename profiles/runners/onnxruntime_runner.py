"""Runs ONNX with ONNX Runtime on any provider, so that two models can be timed in turns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.measuring.environment import count_allowed_cpus
from profiles.runners.onnx_stepper import OnnxStepper
from profiles.runners.runner import HOST_SEMANTICS, Tensors, TensorSpec
from pruning.errors import MissingExtraError, NirvanaError

# By the short names that are asked for.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
_DTYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
_OPTIONS = {
    # Idle worker threads spin for the next run. With two models in one process those of the one
    # would take the processor from the other; so they stop when their run returns.
    "session.force_spinning_stop": "1",
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
        profile_prefix: Path | None = None,
    ) -> None:
        """Load the model; external data is found beside it.

        With `profile_prefix` ONNX Runtime's own profiler runs too, until `end_profiling`.
        Inputs and outputs are in host memory, also where the provider is a GPU's: copies count.

        Raises MissingExtraError without ONNX Runtime, NirvanaError for a file that is missing or
        that it does not take, and for a provider that is not there.
        """
        self._name = name
        self._path = onnx_path
        self._num_threads = num_threads or count_allowed_cpus()
        self._provider = _find_provider(provider)
        self._options = dict(provider_options or {})
        self._session = _open_session(
            onnx_path, self._num_threads, (self._provider, self._options), profile_prefix
        )
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

    def describe(self) -> dict[str, Any]:
        """Say how the model is run."""
        return {
            "runtime": "ONNX Runtime",
            "provider": self._provider,
            **({"provider_options": self._options} if self._options else {}),
            "num_threads": self._num_threads,
            "graph_optimisation": "all",
            "threads_spin_between_runs": False,
            "buffers_bound": True,
            **({} if self._provider == PROVIDERS["cpu"] else {"gpu": None}),
            "semantics": HOST_SEMANTICS,
        }

    def make_stepper(self) -> OnnxStepper:
        """Return the model as one that generates; see `open_stepper`."""
        device = "cpu" if self._provider == PROVIDERS["cpu"] else "cuda"
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
                f"ONNX Runtime cannot run {self._path} on {shapes}: {_first_line(error)} Check "
                "that length is within the model's positions and vocab_size within its vocabulary."
            ) from error
        arrays = (np.ascontiguousarray(output) for output in outputs)
        return dict(zip(names, arrays, strict=True))


@dataclass(frozen=True, slots=True)
class _BoundRun:
    """Runs a session; holds the arrays, because the binding has only their addresses."""

    session: Any
    binding: Any
    inputs: Tensors
    outputs: Tensors

    def __call__(self) -> Tensors:
        self.session.run_with_iobinding(self.binding)
        return self.outputs


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime", "cpu") from error
    return onnxruntime


def _find_provider(asked: str) -> str:
    """Return ONNX Runtime's name of a provider that is there, by its short or its full name."""
    known = PROVIDERS.get(asked, asked)
    there = list(_import_onnxruntime().get_available_providers())
    if known not in there:
        raise NirvanaError(
            f"ONNX Runtime has no provider {asked!r} here; it has {', '.join(there)}. GPUs need "
            "onnxruntime-gpu in place of onnxruntime: pip install 'nirvana-deploy[cuda]'."
        )
    return known


def _open_session(
    onnx_path: Path,
    num_threads: int,
    provider: tuple[str, dict[str, str]],
    profile_prefix: Path | None = None,
) -> Any:
    onnxruntime = _import_onnxruntime()
    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to profile.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    for key, value in _OPTIONS.items():
        options.add_session_config_entry(key, value)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    try:
        session = onnxruntime.InferenceSession(str(onnx_path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors have no base of their own.
        raise NirvanaError(
            f"{onnx_path} is not an ONNX model that ONNX Runtime {onnxruntime.__version__} can "
            f"load: {_first_line(error)} Export it again."
        ) from error
    # ONNX Runtime falls back to the CPU with no more than a warning.
    if session.get_providers()[0] != provider[0]:
        raise NirvanaError(
            f"{provider[0]} was asked, ONNX Runtime took {', '.join(session.get_providers())}: its "
            "libraries or its GPU are missing. `nirvana doctor` shows what is there."
        )
    return session


def _read_spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise NirvanaError(
            f"The model's input {node.name!r} is of type {node.type}; known types: "
            f"{', '.join(_DTYPES)}."
        )
    return TensorSpec(name=node.name, dtype=np.dtype(_DTYPES[node.type]), shape=tuple(node.shape))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."
