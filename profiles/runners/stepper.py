"""What a decoder must offer to generate text: steps, each with the cache of those before."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from profiles.runners.runner import Runner
from pruning.errors import NirvanaError

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
    if not any(spec.name.startswith("past_key_values.") for spec in runner.inputs):
        raise NirvanaError(
            f"{runner.name} takes {', '.join(spec.name for spec in runner.inputs)} and no cache "
            "(past_key_values.*): it does not generate. Leave generate at 0, or give a decoder "
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
            f"{', '.join(values)}, past_key_values.*."
        )
    return {name: values[name] for name in names}
