"""Runs a built engine: on a stream of its own, from and to buffers that are bound once.

Deserializing an engine runs code that it carries: only one that its manifest vouches for is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.engines.bound_engine import BoundEngine, Profile, Shape, ShapeBounds, choose_profile
from exporters.engines.check_loadable import check_loadable
from exporters.engines.engine_device import CudaDevice, EngineDevice
from exporters.engines.engine_flavour import import_flavour
from exporters.engines.engine_manifest import check_engine
from exporters.engines.engine_progress import BuildLog, make_logger
from exporters.engines.local_gpu import find_gpu
from pruning.errors import NirvanaError


def check_inputs(
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], inputs: Mapping[str, object]
) -> dict[str, torch.Tensor]:
    """Return `inputs` in the engine's order and types; shapes are left to its profiles.

    Raises NirvanaError for an input that is missing, not known, of too few or many dimensions, or
    whose values are not kept by the engine's type.
    """
    missing = [name for name in specs if name not in inputs]
    unknown = [name for name in inputs if name not in specs]
    if missing or unknown:
        raise NirvanaError(
            f"The engine takes {', '.join(_describe(*item) for item in specs.items())}. "
            f"Missing: {', '.join(missing) or 'none'}; not known: {', '.join(unknown) or 'none'}."
        )
    return {name: _convert(name, spec, inputs[name]) for name, spec in specs.items()}


def _convert(name: str, spec: tuple[torch.dtype, tuple[int, ...]], value: Any) -> torch.Tensor:
    dtype, shape = spec
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.ndim != len(shape):
        raise NirvanaError(
            f"The engine takes {_describe(name, spec)}, got {array.ndim} dimensions: "
            f"{list(array.shape)}."
        )
    try:
        given = torch.from_numpy(array)
    except TypeError as error:
        raise NirvanaError(
            f"The engine takes {_describe(name, spec)}, got {array.dtype}."
        ) from error
    converted = given.to(dtype)
    if given.dtype != dtype and not _is_kept(given, converted):
        raise NirvanaError(
            f"The engine takes {_describe(name, spec)}, got {array.dtype} with values that "
            "it does not hold."
        )
    return converted


def _is_kept(given: torch.Tensor, converted: torch.Tensor) -> bool:
    """Whether integers stay what they are; floats are rounded, but stay floats."""
    if given.is_floating_point() and converted.is_floating_point():
        return True
    if given.is_floating_point():
        return False
    return bool((converted.to(given.dtype) == given).all())


def _describe(name: str, spec: tuple[torch.dtype, tuple[int, ...]]) -> str:
    dtype, shape = spec
    return f"{name} ({str(dtype).removeprefix('torch.')} {list(shape)})"


class EngineRunner:
    """A deserialized engine, with all of its optimization profiles."""

    def __init__(
        self, engine_dir: Path, *, cuda_graph: bool = False, device: EngineDevice | None = None
    ) -> None:
        """Load the engine of a folder, for `device`: this machine's GPU.

        With `cuda_graph`, what is bound is recorded once and then launched as a whole. An engine
        is taken as it was built: nothing is refitted.

        Raises:
            NirvanaError: there is no GPU, or the engine is not what its manifest says, or not for
                this GPU and this version of the flavour.
        """
        self.manifest = check_engine(engine_dir)
        flavour, version = self.manifest.result.flavour, self.manifest.result.version
        self.cuda_graph = cuda_graph
        self._trt = import_flavour(flavour)
        if device is None:
            found = str(self._trt.__version__)
            check_loadable(
                self.manifest, engine_dir, flavour=flavour, version=found, device=find_gpu()
            )
        self.device = device or CudaDevice()
        self._log = BuildLog()
        self._logger = make_logger(self._trt, self._log)
        self._runtime = self._trt.Runtime(self._logger)
        plan = (engine_dir / self.manifest.result.engine_path).read_bytes()
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reasons = "; ".join(self._log.errors) or "it gave no reason"
            raise NirvanaError(
                f"{flavour} {self._trt.__version__} cannot load {engine_dir}, built by {version}: "
                f"{reasons}. Build it again with this version, for this GPU."
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        mode = self._trt.TensorIOMode
        is_input = {n: self._engine.get_tensor_mode(n) == mode.INPUT for n in names}
        self.input_names = tuple(name for name in names if is_input[name])
        self.output_names = tuple(name for name in names if not is_input[name])
        self.profiles: tuple[Profile, ...] = tuple(
            self._read_profile(number) for number in range(self._engine.num_optimization_profiles)
        )
        self._context: object = None

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of an input or output."""
        # TensorRT's names are numpy's in capitals, but for these.
        plain = {"HALF": "float16", "FLOAT": "float32", "BF16": "bfloat16"}
        tensor_type = self._engine.get_tensor_dtype(name).name
        found = getattr(torch, plain.get(tensor_type, tensor_type.lower()), None)
        if not isinstance(found, torch.dtype):
            raise NirvanaError(f"{name} of the engine is {tensor_type}, for which torch has none.")
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the dimensions of an input or output; -1 is one that is free."""
        return tuple(self._engine.get_tensor_shape(name))

    def bind(
        self, inputs: Mapping[str, object], *, resident: frozenset[str] = frozenset()
    ) -> BoundEngine:
        """Return a `BoundEngine` on `inputs` (numpy, by name), with a context of its own.

        It has run once. Inputs and outputs in `resident` are not copied from and to the host in
        its calls.

        Raises:
            NirvanaError: an input is missing, not known, of another type, or in no profile.
        """
        return self._bind(self._make_context(), inputs, resident, cuda_graph=self.cuda_graph)

    def run(self, inputs: Mapping[str, object]) -> dict[str, Any]:
        """Run once, in one context for all calls; return all outputs, floats as float32."""
        if self._context is None:
            self._context = self._make_context(cuda_graph=False)
        bound = self._bind(self._context, inputs, frozenset(), cuda_graph=False)
        return {name: to_array(tensor) for name, tensor in bound().items()}

    def _bind(
        self,
        context: Any,
        inputs: Mapping[str, object],
        resident: frozenset[str],
        *,
        cuda_graph: bool,
    ) -> BoundEngine:
        tensors = check_inputs(
            {n: (self.dtype(n), self.shape(n)) for n in self.input_names}, inputs
        )
        shapes: dict[str, Shape] = {name: tuple(t.shape) for name, t in tensors.items()}
        number = choose_profile(self.profiles, shapes)
        if context.active_optimization_profile != number:
            self._require(
                context.set_optimization_profile_async(number, self.device.stream_handle),
                f"it does not take its optimization profile {number}",
            )
            self.device.synchronize()
        for name, shape in shapes.items():
            self._require(
                context.set_input_shape(name, shape), f"it does not take {name} {list(shape)}"
            )
        return BoundEngine(
            context=context,
            profile=number,
            device=self.device,
            inputs=tensors,
            outputs={name: self._describe_output(context, name) for name in self.output_names},
            aliases=self._find_aliases(),
            host_names=frozenset(n for n in self.input_names if self._is_on_host(n)),
            resident=resident,
            record=cuda_graph and not self._records_itself,
            fail=self._fail,
        )

    def _make_context(self, *, cuda_graph: bool | None = None) -> object:
        graph = self.cuda_graph if cuda_graph is None else cuda_graph
        if graph and self._records_itself:
            config = self._engine.create_runtime_config()
            # Its kernels are compiled for shapes while it runs: only it knows when to record.
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            self._fail("it gives no execution context; its memory may not fit the GPU")
        return context

    @property
    def _records_itself(self) -> bool:
        """Whether the flavor makes CUDA graphs by itself (TensorRT-RTX)."""
        return hasattr(self._trt, "CudaGraphStrategy")

    def _read_profile(self, number: int) -> Profile:
        def read(name: str) -> ShapeBounds:
            low, opt, high = self._engine.get_tensor_profile_shape(name, number)
            return ShapeBounds(min=tuple(low), opt=tuple(opt), max=tuple(high))

        return {name: read(name) for name in self.input_names}

    def _describe_output(self, context: Any, name: str) -> tuple[Shape, torch.dtype]:
        shape = tuple(context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            self._fail(
                f"the shape of its output {name}, {list(shape)}, depends on values, and none could "
                "be set aside for it"
            )
        return shape, self.dtype(name)

    def _find_aliases(self) -> dict[str, str]:
        """Return outputs that are written where an input is, as a cache is that grows in place."""
        if not hasattr(self._engine, "get_aliased_input_tensor"):
            return {}
        found = {name: self._engine.get_aliased_input_tensor(name) for name in self.output_names}
        return {name: source for name, source in found.items() if source}

    def _is_on_host(self, name: str) -> bool:
        return bool(self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def _require(self, done: bool, otherwise: str) -> None:
        if not done:
            self._fail(otherwise)

    def _fail(self, what: str) -> None:
        reasons = "; ".join(self._log.errors[-3:]) or "TensorRT gave no reason"
        raise NirvanaError(f"The engine failed: {what} ({reasons}).")


def to_array(tensor: torch.Tensor) -> object:
    """Return a copy as numpy; floats as float32, which all of numpy knows."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy().copy()


def make_sample_inputs(runner: EngineRunner, *, profile: int = 0, seed: int = 0) -> dict[str, Any]:
    """Return inputs of the shapes that a profile is tuned for.

    Integers are 0, which any table has, but masks are 1; floats are drawn from a normal
    distribution.
    """
    draw = np.random.default_rng(seed)
    inputs = {}
    for name, bounds in runner.profiles[profile].items():
        if runner.dtype(name).is_floating_point:
            inputs[name] = draw.standard_normal(bounds.opt).astype(np.float32)
        else:
            inputs[name] = np.full(bounds.opt, int("mask" in name), np.int64)
    return inputs
