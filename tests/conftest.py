"""No test may reach a model hub: it must pass, and fail, the same everywhere."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
