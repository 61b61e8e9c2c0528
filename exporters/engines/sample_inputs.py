"""Makes inputs for an engine of which nothing is known but its optimization profile."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporters.engines.engine_runner import EngineRunner


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
