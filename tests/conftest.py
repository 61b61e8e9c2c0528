"""No test may reach a model hub: it must pass, and fail, the same everywhere."""

import gc
import os
import sys
import time
from collections.abc import Iterator

import pytest

from tests.sort_by_time import is_slow, read_kept_tests, read_slow_tests

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
# A memo of torch's: in a trace, whose sizes are symbols, it takes a tenth more time than it saves.
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"


# Processor time of a test in the fast tier, with its child processes. Time on the clock would
# depend on what else the machine does; a slower processor, or a shared one, has more of it.
_LIMIT_S = 20.0
_REFERENCE_S = 0.15  # what `_measure_pace` takes on the machine whose times sort the tiers


def _measure_pace() -> float:
    """Return how much more processor time this machine takes than the reference, at least 1."""
    taken = []
    for _ in range(3):
        before = time.process_time()
        sum(number * number % 7 for number in range(1_500_000))
        {str(number): number for number in range(100_000)}
        taken.append(time.process_time() - before)
    return max(1.0, min(taken) / _REFERENCE_S)


def _is_fair() -> bool:
    """Return whether processor time means something: waiting threads spin, and programs beside
    the tests take their caches."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    return os.environ.get("OMP_NUM_THREADS") == "1" and load < 1.75 * cpus


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and begin with their files: no process is left with one at the end."""
    slow_tests, kept_tests = read_slow_tests(), read_kept_tests()
    for item in items:
        if is_slow(item.nodeid, slow_tests, kept_tests):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Let collections pass over what was imported: each would walk a million objects."""
    gc.collect()
    gc.freeze()


_NUM_THREADS = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give torch its threads back: a profile sets their number, and the bits of sums hang on it."""
    if "torch" in sys.modules:
        import torch

        first = item.config.stash.setdefault(_NUM_THREADS, torch.get_num_threads())
        if torch.get_num_threads() != first:
            torch.set_num_threads(first)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that belongs into the slow tier."""
    before = sum(os.times()[:4])
    result = yield
    spent = sum(os.times()[:4]) - before
    if spent > _LIMIT_S and not item.get_closest_marker("slow"):
        limit = _LIMIT_S * _measure_pace()
        if spent > limit and _is_fair():
            pytest.fail(
                f"This test took {spent:.0f} s of processor time, at most {limit:.0f} s are for a "
                "test of the fast tier. Make it faster, or mark it `slow`."
            )
    return result
