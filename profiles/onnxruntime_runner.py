"""Runs ONNX on the CPU with ONNX Runtime, set up so that two models can be timed in turns."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.environment import count_allowed_cpus
from profiles.runner import Tensors, TensorSpec
from pruning.errors import MissingExtraError, NirvanaError

_PROVIDER = "CPUExecutionProvider"
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
    """An ONNX model in a session on the CPU."""

    def __init__(
        self, onnx_path: Path, *, name: str = "model", num_threads: int | None = None
    ) -> None:
        """Load the model; external data is found beside it.

        Raises MissingExtraError without ONNX Runtime, NirvanaError for a file that is missing or
        that it does not take.
        """
        self._name = name
        self._path = onnx_path
        self._num_threads = num_threads or count_allowed_cpus()
        self._session = _open_session(onnx_path, self._num_threads)
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
            "provider": _PROVIDER,
            "num_threads": self._num_threads,
            "graph_optimisation": "all",
            "threads_spin_between_runs": False,
            "buffers_bound": True,
        }

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


def _open_session(onnx_path: Path, num_threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime", "cpu") from error
    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to profile.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    for key, value in _OPTIONS.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(str(onnx_path), options, providers=[_PROVIDER])
    except Exception as error:  # ONNX Runtime's errors have no base of their own.
        raise NirvanaError(
            f"{onnx_path} is not an ONNX model that ONNX Runtime {onnxruntime.__version__} can "
            f"load: {_first_line(error)} Export it again."
        ) from error


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
