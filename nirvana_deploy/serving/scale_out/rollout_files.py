"""What a package brings for a rollout: the script that compares two endpoints, and requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from nirvana_deploy.serving.onnx_signature import OnnxSignature
from nirvana_deploy.serving.server.protocol_client import make_body, make_rows

RAY_NAME = "ray_app.py"
SCRIPT_NAME = "compare_endpoints.py"
REQUESTS_NAME = "requests.jsonl"
_LENGTHS = (8, 16, 32, 64)
_NUM_REQUESTS = 32


def write_rollout(out_dir: Path, signature: OnnxSignature) -> None:
    """Write the script, and random requests of a row and of different lengths, to `out_dir`."""
    _copy(SCRIPT_NAME, out_dir)
    lengths = np.random.default_rng(0).choice(_LENGTHS, _NUM_REQUESTS)
    bodies = (
        make_body(make_rows(signature, 1, int(length), seed=number), signature)
        for number, length in enumerate(lengths)
    )
    text = "".join(f"{json.dumps(body)}\n" for body in bodies)
    (out_dir / REQUESTS_NAME).write_text(text, encoding="utf-8")


def write_ray_app(out_dir: Path) -> None:
    """Write the application that serves the package by Ray Serve to `out_dir`."""
    _copy(RAY_NAME, out_dir)


def _copy(name: str, out_dir: Path) -> None:
    shutil.copyfile(Path(__file__).parent / name, out_dir / name)
