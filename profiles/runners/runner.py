"""What a run-time must offer to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from exporters.io_names import PAST_PREFIX, is_past
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

Tensors = Mapping[str, NDArray[Any]]
# What a call's time has in it, for runners that see no more than its beginning and end.
HOST_SEMANTICS = "ours: end to end from the caller, inputs and outputs bound in host memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Describe one input of a model; a dimension that is not fixed is a name or None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


@runtime_checkable
class PartedCall(Protocol):
    """A bound call that knows where the time of its last run went, as one on a GPU can."""

    def __call__(self) -> Tensors:
        """Run the model."""
        ...

    def read_parts(self) -> Mapping[str, float]:
        """Return milliseconds by part, named as trtexec's: `gpu_compute_ms`, `enqueue_ms`, ..."""
        ...


def read_parts(call: Callable[[], Any]) -> Mapping[str, float]:
    """Return where the time of a call's last run went; empty where only its end is seen."""
    return call.read_parts() if isinstance(call, PartedCall) else {}


class Runner(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """Name the model in messages."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """List what the model takes."""
        ...

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        """Return a call that runs the model on `inputs`, for which it has run once already.

        Allocation and binding happen here, so that the call is all that has to be timed. The
        tensors that it returns are overwritten by the next call.
        """
        ...

    def describe(self) -> JsonObject:
        """Say how the model is run: provider, threads, options. JSON values only.

        `semantics` says what a call's time has in it.
        """
        ...


Ids = NDArray[np.int64]


class Stepper(Protocol):
    """A decoder that keeps its cache between steps. Arrays are [batch, tokens]."""

    def start(self, batch: int) -> None:
        """Empty the cache, for `batch` rows."""
        ...

    def step(self, ids_BS: Ids) -> Ids:
        """Run the next tokens of each row; return the likeliest one after them, [batch, 1]."""
        ...


def open_stepper(runner: Runner) -> Stepper:
    """Return a runner's model as one that generates, on the weights that are loaded.

    Raises NirvanaError for a model without a cache, and a run-time that cannot.
    """
    make: Any = getattr(runner, "make_stepper", None)
    if make is None:
        raise NirvanaError(
            f"{runner.name} is run by {runner.describe()['runtime']}, in which no text is "
            "generated here: generate needs a checkpoint or ONNX. Measure a step by itself: "
            "length 1, past as many tokens as its cache has."
        )
    if not any(is_past(spec.name) for spec in runner.inputs):
        raise NirvanaError(
            f"{runner.name} takes {', '.join(spec.name for spec in runner.inputs)} and no cache "
            f"({PAST_PREFIX}*): it does not generate. Leave generate at 0, or give a decoder "
            "that was exported with its cache."
        )
    stepper: Stepper = make()
    return stepper


def make_step_inputs(names: tuple[str, ...], ids_BS: Ids, num_past: int) -> dict[str, Ids]:
    """Return what a step takes besides its cache, unpadded.

    Raises NirvanaError for an input that is not known.
    """
    batch, num_new = ids_BS.shape
    positions = np.arange(num_past, num_past + num_new, dtype=np.int64)
    values = {
        "input_ids": ids_BS,
        "attention_mask": np.ones((batch, num_past + num_new), np.int64),
        "position_ids": np.tile(positions, (batch, 1)),
    }
    unknown = [name for name in names if name not in values]
    if unknown:
        raise NirvanaError(
            f"A step takes {', '.join(unknown)}, for which no values can be made. Known inputs: "
            f"{', '.join(values)}, {PAST_PREFIX}*."
        )
    return {name: values[name] for name in names}
