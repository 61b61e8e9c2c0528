"""No test may reach a model hub: it must pass, and fail, the same everywhere."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported


def pytest_collection_finish() -> None:
    """Let collections pass over what was imported: each would walk a million objects."""
    gc.collect()
    gc.freeze()
