"""No test may reach a model hub: it must pass, and fail, the same everywhere."""

import gc
import os

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
