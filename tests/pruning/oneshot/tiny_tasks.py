"""A tiny model with batches without padding, as one-shot pruning takes them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.cutting.wiring_inference import read_model
from pruning.scoring.saliency import ScoringTask
from pruning.wirings.sites import find_sites
from tests.pruning.tiny_models import TINY, VOCAB, make_tiny

# Those that are fed with tokens.
FAMILIES = tuple(name for name, tiny in TINY.items() if tiny.model_type != "vit")


def make_task(name: str, num_batches: int = 2, **changes: Any) -> ScoringTask:
    return task_for(make_tiny(name, **changes), num_batches)


def task_for(model: PreTrainedModel, num_batches: int = 2) -> ScoringTask:
    draw = torch.Generator().manual_seed(3)
    batches = [_draw_batch(model, draw) for _ in range(num_batches)]
    return ScoringTask(model, find_sites(model, read_model(model)), batches)


def _draw_batch(model: PreTrainedModel, draw: torch.Generator) -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, VOCAB, (6, 16), generator=draw)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if model.config.is_encoder_decoder:
        batch["labels"] = torch.randint(3, VOCAB, (6, 7), generator=draw)
    elif type(model).__name__.endswith("ForSequenceClassification"):
        batch["labels"] = torch.randint(0, 5, (6,), generator=draw)
    else:
        batch["labels"] = tokens
    return batch


@torch.no_grad()
def logits_of(task: ScoringTask) -> torch.Tensor:
    return torch.cat([task.model(**batch).logits for batch in task.batches])
