"""What a run-time must offer to be measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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

    def describe(self) -> dict[str, Any]:
        """Say how the model is run: provider, threads, options. JSON values only.

        `semantics` says what a call's time has in it.
        """
        ...
