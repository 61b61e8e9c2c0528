"""Runs a built engine on this machine's GPU, for correctness; nothing here is fit to be timed.

Deserialising an engine runs code that it carries: only one that its manifest vouches for is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.engines.engine_flavour import import_flavour
from exporters.engines.engine_manifest import check_engine
from exporters.engines.engine_progress import BuildLog, make_logger
from pruning.errors import NirvanaError


class EngineRunner:
    """A deserialised engine with its first optimisation profile."""

    def __init__(self, engine_dir: Path) -> None:
        """Load the engine of a folder.

        Raises:
            NirvanaError: there is no GPU, or the engine is not what its manifest says, or not for
                this GPU and this version of the flavour.
        """
        manifest = check_engine(engine_dir)
        flavour, version = manifest.result.flavour, manifest.result.version
        if not torch.cuda.is_available():
            targets = ", ".join(manifest.result.compute_capabilities) or "the GPU it was built on"
            raise NirvanaError(
                f"{engine_dir} is a {flavour} {version} engine for {targets}: to run it, an NVIDIA "
                "GPU with its driver and a torch with CUDA are needed, and there is none here. "
                "Compare it on the machine that it is for."
            )
        trt = import_flavour(flavour)
        self._log = BuildLog()
        self._logger = make_logger(trt, self._log)
        self._runtime = trt.Runtime(self._logger)
        plan = (engine_dir / manifest.result.engine_path).read_bytes()
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reasons = "; ".join(self._log.errors) or "it gave no reason"
            raise NirvanaError(
                f"{flavour} {trt.__version__} cannot load {engine_dir}, built by {version}: "
                f"{reasons}. Build it again with this version, for this GPU."
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self.input_names = tuple(name for name in names if is_input[name])
        self.output_names = tuple(name for name in names if not is_input[name])

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of an input or output."""
        # TensorRT's names are numpy's in capitals, but for these.
        plain = {"HALF": "float16", "FLOAT": "float32", "BF16": "bfloat16"}
        tensor_type = self._engine.get_tensor_dtype(name).name
        found: torch.dtype = getattr(torch, plain.get(tensor_type, tensor_type.lower()))
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the dimensions of an input or output; -1 is one that is free."""
        return tuple(self._engine.get_tensor_shape(name))

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all outputs as arrays; floats as float32."""
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(inputs[name])).to("cuda", self.dtype(name))
            for name in self.input_names
        }
        for name, tensor in tensors.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise NirvanaError(
                    f"the engine does not take {name} {list(tensor.shape)}: it is outside the "
                    "optimisation profile that it was built with."
                )
            self._context.set_tensor_address(name, tensor.data_ptr())
        for name in self.output_names:
            shape = tuple(self._context.get_tensor_shape(name))
            tensors[name] = torch.empty(shape, dtype=self.dtype(name), device="cuda")
            self._context.set_tensor_address(name, tensors[name].data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise NirvanaError(f"the engine failed: {'; '.join(self._log.errors)}.")
        stream.synchronize()
        return {name: _to_array(tensors[name]) for name in self.output_names}


def _to_array(tensor: torch.Tensor) -> Any:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
