"""What a saliency looks at for the gates to start from: training rows, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.cutting.wiring_inference import read_dense
from pruning.scoring.block_walk import Batch
from pruning.scoring.fisher import Fisher
from pruning.scoring.known_saliencies import score_units
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.tasks.text_data import LabelledText, collate
from pruning.wirings.sites import find_sites


def make_start_task(model: PreTrainedModel, batches: Sequence[Batch]) -> ScoringTask:
    """Return what a saliency looks at. The model has no gates yet: they would scale what it sees.

    Batches hold labels, and no padding.
    """
    return ScoringTask(model, find_sites(model, read_dense(model)), batches)


def score_query_heads(task: ScoringTask) -> Scores:
    """Return the Fisher information of each query head, [num_heads], where KV groups share keys.

    Saliencies score KV groups; Fisher's masks stand at the output projection, where heads part.
    """
    sites = {
        sub_block: replace(site, num_units=site.dims.num_heads, unit_width=site.dims.head_dim)
        for sub_block, site in task.sites.items()
        if sub_block.part != "mlp" and site.dims.heads_per_group > 1
    }
    if not sites:
        return {}
    return score_units(Fisher(), ScoringTask(task.model, sites, task.batches))


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
