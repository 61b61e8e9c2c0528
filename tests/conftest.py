"""No test may reach a model hub: it must pass, and fail, the same everywhere."""

import gc
import os
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
# A memo of torch's: in a trace, whose sizes are symbols, it takes a tenth more time than it saves.
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: no process is left with one at the end."""
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
