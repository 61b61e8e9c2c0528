"""What a saliency looks at for the gates to start from: training rows, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.activations.block_walk import Batch
from pruning.checkpoints.dense_source import read_dense
from pruning.saliencies.saliency import ScoringTask
from pruning.training.text_data import LabelledText, collate
from pruning.wirings.sites import find_sites


def make_start_task(model: PreTrainedModel, batches: Sequence[Batch]) -> ScoringTask:
    """Return what a saliency looks at. The model has no gates yet: they would scale what it sees.

    Batches hold labels, and no padding.
    """
    return ScoringTask(model, find_sites(model, read_dense(model)), batches)


def draw_start_batches(
    text: LabelledText, tokenizer: Any, num_rows: int, batch_size: int
) -> list[dict[str, torch.Tensor]]:
    """Return the first training rows, those of equal length together.

    Padding would count in activations and positions.
    """
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for row in text.train.select(range(min(num_rows, len(text.train)))):
        groups.setdefault(_measure(row), []).append(row)
    return [
        collate(tokenizer, rows[start : start + batch_size])
        for _, rows in sorted(groups.items())
        for start in range(0, len(rows), batch_size)
    ]


def _measure(row: dict[str, Any]) -> tuple[int, ...]:
    """Return the number of tokens, and of labels where each token or a target text has them."""
    labels = row.get("labels")
    return (len(row["input_ids"]), len(labels) if isinstance(labels, list) else 0)
