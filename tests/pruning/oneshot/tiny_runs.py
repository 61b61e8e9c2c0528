"""Tiny models on disk, text that they know, and scoring runs of seconds."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruning.allocation.constraints import Constraints
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.oneshot.oneshot_config import OneShotConfig, ScoringConfig
from tests.pruning.training.tiny_tasks import WORDS, write_headed


def write_text(folder: Path, num_train: int = 40, num_validation: int = 12) -> Path:
    """Write train.txt and validation.txt, a document a line."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    for split, num in (("train", num_train), ("validation", num_validation)):
        lines = [" ".join(draw.choices(WORDS, k=draw.randint(14, 24))) for _ in range(num)]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_model(folder: Path, task: str = "causal-lm", **changes: Any) -> str:
    return str(write_headed(folder, task, **changes))


def scoring(text: Path, calibration: dict[str, Any] | None = None, **changes: Any) -> ScoringConfig:
    small: dict[str, Any] = {"num_sequences": 8, "sequence_length": 16, "batch_size": 4}
    small |= {"source": str(text), "num_draws": 2, **(calibration or {})}
    return ScoringConfig(calibration=CalibrationConfig(**small), **changes)


def oneshot(**changes: Any) -> OneShotConfig:
    constraints = Constraints(neuron_multiple=8)
    return OneShotConfig(**{"sequence_length": 16, "constraints": constraints, **changes})


def placed_in(folder: Path) -> Any:
    @contextlib.contextmanager
    def place(budget: float) -> Iterator[Path]:
        made = folder / f"{budget:g}"
        made.mkdir(parents=True)
        yield made

    return place
