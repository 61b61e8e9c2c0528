"""This machine's processor as a target: its rates are measured, since no file knows the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache

import numpy as np

from profiles.measuring.environment import count_allowed_cpus, read_cpu_name
from profiles.targets.target import Figure, Target

_SIDE = 1024  # of the square matrices: 4 MB each in fp32
_COPIED_BYTES = 256 * 2**20  # beyond the caches of most processors
_NUM_TRIES = 7


@cache
def detect_cpu() -> Target:
    """Measure the fp32 rate and the memory bandwidth of the CPUs that this process may use.

    Both are the best of a few tries: what the processor can do when it is left alone. Numpy's own
    threads do the work, so a limit on them (OMP_NUM_THREADS) limits the figures too.
    """
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(2, _SIDE, _SIDE)).astype(np.float32)
    product = np.empty_like(left)
    seconds = _best_seconds(lambda: np.matmul(left, right, out=product))
    source = np.zeros(_COPIED_BYTES // 8)
    copy = np.ones_like(source)
    copy_seconds = _best_seconds(lambda: np.copyto(copy, source))
    return Target(
        name="cpu",
        title=read_cpu_name(),
        kind="cpu",
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        compute_capability=None,
        memory_bandwidth_gb_per_s=Figure(
            value=2 * _COPIED_BYTES / copy_seconds / 1e9,
            source=f"measured here: best of {_NUM_TRIES} copies of {_COPIED_BYTES >> 20} MiB",
            note="by one thread; read and written bytes counted",
        ),
        tera_ops_per_s={
            "fp32": Figure(
                value=2 * _SIDE**3 / seconds / 1e12,
                source=f"measured here: best of {_NUM_TRIES} products of {_SIDE} x {_SIDE}",
                note=f"numpy's threads, on at most {count_allowed_cpus()} CPUs",
            )
        },
        alignment_bytes=None,
    )


def _best_seconds(call: Callable[[], object]) -> float:
    def once() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(_NUM_TRIES))
