"""Scores the units of a dense model on training rows, for the gates to start from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.dense_source import read_dense
from pruning.gates.prune_config import PruneConfig
from pruning.saliencies.known_saliencies import find_saliency, score_units
from pruning.saliencies.saliency import Scores, ScoringTask
from pruning.training.text_data import LabelledText, collate
from pruning.wirings.sites import find_sites


def score_start(
    model: PreTrainedModel, text: LabelledText, tokenizer: Any, config: PruneConfig
) -> Scores | None:
    """Return the scores of the saliency that `config.warm_start` names; None without warm start.

    The model is left as it was.

    Raises:
        NirvanaError: the saliency is unknown, or does not fit the task.
    """
    if config.warm_start is None or not config.warm_start_rows:
        return None
    saliency = find_saliency(config.warm_start)
    batches = list(_draw_batches(text, tokenizer, config.warm_start_rows, config.batch_size))
    sites = find_sites(model, read_dense(model))
    return score_units(saliency, ScoringTask(model, sites, batches))


def _draw_batches(
    text: LabelledText, tokenizer: Any, num_rows: int, batch_size: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield rows of equal length together: padding would count in activations and positions."""
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for row in text.train.select(range(min(num_rows, len(text.train)))):
        groups.setdefault(_measure(row), []).append(row)
    for _, rows in sorted(groups.items()):
        for start in range(0, len(rows), batch_size):
            yield collate(tokenizer, rows[start : start + batch_size])


def _measure(row: dict[str, Any]) -> tuple[int, ...]:
    """Return the number of tokens, and of labels where each token or a target text has them."""
    labels = row.get("labels")
    return (len(row["input_ids"]), len(labels) if isinstance(labels, list) else 0)
