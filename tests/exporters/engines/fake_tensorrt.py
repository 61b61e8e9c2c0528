"""A stand-in for a TensorRT flavor and a GPU, for machines without one.

The engine "plan" is an ONNX file, which ONNX Runtime computes from and to the addresses that were
bound. What the real one demands is demanded here: shapes within the chosen profile, an address for
every tensor, a first run before one is recorded; and as on a GPU, what is queued on the stream is
done when somebody waits for it, not before.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from exporters.engines.local_gpu import LocalGpu
from tests.exporters.engines.engine_folders import write_engine

MAGIC = b"fake plan\n"
Bounds = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]  # min, opt, max


class FakeDevice:
    """A stream of queued work on CPU memory, with a clock that each kind of work moves."""

    name = "fake device"
    uuid = "GPU-0"
    cost_ms: Mapping[str, float] = {"copy": 0.25, "run": 2.0, "graph": 1.5}

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.num_captures = 0
        self.stream_handle = 77 + len(_DEVICES)  # two engines have two streams
        _DEVICES[self.stream_handle] = self

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        count = int(np.prod(shape))
        return torch.zeros(max(count, 1), dtype=dtype)[:count].view(tuple(shape))

    empty_host = empty

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.add(lambda: target.copy_(source), "copy")

    def make_mark(self) -> list[float]:
        return []

    def queue_mark(self, mark: list[float]) -> None:
        self.queue.append(lambda: mark.__setitem__(slice(None), [self.now_ms]))

    def elapsed_ms(self, begin: list[float], end: list[float]) -> float:
        return end[0] - begin[0]

    def add(self, work: Callable[[], Any], kind: str) -> None:
        def do() -> None:
            work()
            self.now_ms += self.cost_ms[kind]

        (self.queue if self.captured is None else self.captured).append(do)

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        self.num_captures += 1
        self.captured = []
        queue()
        recorded, self.captured = self.captured, None
        return lambda: self.queue.extend(recorded)

    def synchronize(self) -> None:
        assert self.captured is None, "waiting for a stream breaks its recording"
        work, self.queue = self.queue, []
        for each in work:
            each()


_DEVICES: dict[int, FakeDevice] = {}


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class DataType(enum.Enum):
    FLOAT, HALF, INT32, INT64, BOOL = range(5)


class Severity(enum.Enum):
    ERROR, VERBOSE = range(2)


_TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int64)": (DataType.INT64, np.int64),
    "tensor(int32)": (DataType.INT32, np.int32),
}


class ILogger:
    pass


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if not plan.startswith(MAGIC):
            self._logger.log(Severity.ERROR, "magicTag: the plan is corrupt or foreign")
            return None
        head, body = plan.removeprefix(MAGIC).split(b"\n", 1)
        return Engine(json.loads(head), body, self._logger)


class Engine:
    def __init__(self, profiles: list[Bounds], graph: bytes, logger: Any) -> None:
        import onnxruntime

        self.profiles, self.logger = profiles, logger
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options)
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.nodes = {**self.inputs, **self.outputs}
        self.contexts: list[Context] = []
        _ENGINES.append(self)

    @property
    def num_io_tensors(self) -> int:
        return len(self.nodes)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self.nodes[name].type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else -1 for d in self.nodes[name].shape)

    def get_tensor_profile_shape(self, name: str, number: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[number][name]]

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return ALIASES.get(name)

    def create_runtime_config(self) -> Any:
        return types.SimpleNamespace(cuda_graph_strategy="DISABLED")

    def create_execution_context(self, config: Any = None) -> Context:
        self.contexts.append(Context(self, config))
        return self.contexts[-1]


_ENGINES: list[Engine] = []
ALIASES: dict[str, str] = {}  # outputs that must be written where an input is


class Context:
    def __init__(self, engine: Engine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.active_optimization_profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.has_run = False
        self.fail_from: int | None = None  # number of the run from which on the device is lost
        self.num_runs = 0

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert stream in _DEVICES
        self.active_optimization_profile, self.shapes, self.has_run = number, {}, False
        return number < len(self.engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profiles[self.active_optimization_profile][name]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(f"{name} {shape} is outside of the profile")
        if self.shapes.get(name) != tuple(shape):
            self.has_run = False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = {
            dim: size
            for node in self.engine.inputs.values()
            for dim, size in zip(node.shape, self.shapes.get(node.name, ()), strict=False)
        }
        if {"past_sequence", "sequence"} <= set(sizes):
            sizes["past_sequence + sequence"] = sizes["past_sequence"] + sizes["sequence"]
        found = (
            d if isinstance(d, int) else sizes.get(d, -1) for d in self.engine.nodes[name].shape
        )
        return tuple(found)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0 or self._refuse(f"the address of {name} is 0")

    def execute_async_v3(self, stream: int) -> bool:
        device = _DEVICES[stream]
        missing = [name for name in self.engine.nodes if name not in self.addresses]
        if missing or self.infer_shapes():
            return self._refuse(f"no address or shape of {missing or self.infer_shapes()}")
        if device.captured is not None and not self.has_run:
            return self._refuse("the first run after a change of shapes cannot be recorded")
        if self.fail_from is not None and self.num_runs >= self.fail_from:
            return self._refuse("CUDA error 719: the device is lost")
        for name, source in ALIASES.items():
            if self.addresses[name] != self.addresses[source]:
                return self._refuse(f"{name} must be in the place of {source}")
        self.has_run, self.num_runs = True, self.num_runs + 1
        views = {name: self._view(name) for name in self.engine.nodes}
        device.add(lambda: self._compute(views), "run" if device.captured is None else "graph")
        return True

    def _compute(self, views: dict[str, np.ndarray]) -> None:
        feeds = {name: views[name] for name in self.engine.inputs}
        names = list(self.engine.outputs)
        for name, value in zip(names, self.engine.session.run(names, feeds), strict=True):
            views[name][...] = value

    def _view(self, name: str) -> np.ndarray:
        """Return the bound memory as an array, from its address alone."""
        dtype = np.dtype(_TYPES[self.engine.nodes[name].type][1])
        shape = self.shapes[name] if name in self.shapes else self.get_tensor_shape(name)
        count = int(np.prod(shape))
        raw = (ctypes.c_byte * (count * dtype.itemsize)).from_address(self.addresses[name])
        return np.frombuffer(raw, dtype).reshape(shape)

    def _refuse(self, reason: str) -> bool:
        self.engine.logger.log(Severity.ERROR, reason)
        return False


def make_flavour(name: str) -> types.ModuleType:
    """Return a module like `tensorrt`, or like `tensorrt_rtx`, which makes CUDA graphs itself."""
    module = types.ModuleType(name)
    parts = (Runtime, ILogger, TensorIOMode, TensorLocation, DataType)
    module.__dict__.update({part.__name__: part for part in parts}, __version__="1.7.1")
    if name == "tensorrt_rtx":
        module.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE")  # type: ignore[attr-defined]
    return module


def last_engine() -> Engine:
    return _ENGINES[-1]


def stand_in_for_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an EngineRunner that is given no device find the GPU that fake engines are for."""
    gpu = LocalGpu(name="fake device", compute_capability="8.9")
    monkeypatch.setattr("exporters.engines.engine_runner.find_gpu", lambda: gpu)
    monkeypatch.setattr("exporters.engines.engine_runner.CudaDevice", FakeDevice)


def write_fake_engine(
    folder: Path, model: onnx.ModelProto, profiles: Sequence[Bounds], flavour: str = "tensorrt_rtx"
) -> Path:
    """Write an engine folder whose manifest vouches for a fake plan."""
    plan = MAGIC + json.dumps(list(profiles)).encode() + b"\n" + model.SerializeToString()
    names = ("min", "opt", "max")
    first = {
        name: {key: list(shape) for key, shape in zip(names, bounds, strict=True)}
        for name, bounds in profiles[0].items()
    }
    write_engine(folder, engine=plan, flavour=flavour, version="1.7.1", optimisation_profile=first)
    return folder
