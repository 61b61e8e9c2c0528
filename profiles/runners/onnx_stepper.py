"""A decoder's graph in ONNX Runtime, its cache handed from step to step where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.runners.runner import TensorSpec
from profiles.runners.stepper import Ids, make_step_inputs
from pruning.errors import NirvanaError

_PAST, _PRESENT = "past_key_values", "present"


class OnnxStepper:
    """A session with a cache in its inputs and outputs."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], device: str) -> None:
        """`device` is where the provider keeps the cache: cpu or cuda."""
        import onnxruntime

        self._make_value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._session, self._device = session, device
        self._cache = tuple(spec for spec in inputs if spec.name.startswith(_PAST))
        self._tokens = tuple(spec for spec in inputs if spec not in self._cache)
        self._past: dict[str, Any] = {}
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
        outputs = [name.replace(_PAST, _PRESENT, 1) for name in self._past]
        binding.bind_output("logits", "cpu")
        for name in outputs:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        self._past = dict(zip(self._past, present, strict=True))
        self._num_past += ids_BS.shape[1]
        return logits.numpy()[:, -1:].argmax(-1)


def _make_empty(spec: TensorSpec, batch: int) -> NDArray[Any]:
    """Return a cache of no tokens: [batch, heads, 0, head width], as the graph's own sizes say."""
    heads, width = spec.shape[1], spec.shape[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise NirvanaError(
            f"The cache {spec.name!r} has shape {list(spec.shape)}. Expected [batch, heads, past, "
            "head width] with heads and width as numbers. Export it again."
        )
    return np.zeros((batch, heads, 0, width), spec.dtype)
