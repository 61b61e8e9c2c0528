"""Scores a classifier on labelled rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedModel

from pruning.training.classification_metrics import score_classes
from pruning.training.text_data import collate


@torch.no_grad()
def evaluate_classifier(
    model: PreTrainedModel, rows: Dataset, tokenizer: Any, batch_size: int = 64
) -> dict[str, float]:
    """Return accuracy, macro_f1 and the mean cross-entropy (nats) of `model` on all rows."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for start in range(0, len(rows), batch_size):
        part = rows.select(range(start, min(start + batch_size, len(rows))))
        batch = {k: v.to(model.device) for k, v in collate(tokenizer, list(part)).items()}
        labels.append(batch.pop("labels").cpu())
        logits.append(model(**batch).logits.float().cpu())
    model.train(was_training)
    logits_RC, labels_R = torch.cat(logits), torch.cat(labels)
    scores = score_classes(
        SimpleNamespace(predictions=logits_RC.numpy(), label_ids=labels_R.numpy())
    )
    return {**scores, "loss": float(F.cross_entropy(logits_RC, labels_R))}
