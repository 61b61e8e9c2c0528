"""Random token batches with and without padding, for tracing and for comparing."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def make_batch(
    model: PreTrainedModel, batch: int, length: int, *, padded: bool, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return int64 input_ids, attention_mask and token_type_ids, each [batch, length].

    Padded, row i is right-padded to a different live length, and at least one row stays whole.
    """
    generator = torch.Generator().manual_seed(seed)
    pad = model.config.pad_token_id or 0
    input_ids = torch.randint(
        pad + 1, model.config.vocab_size, (batch, length), generator=generator
    )
    mask = torch.ones_like(input_ids)
    if padded:
        for row in range(batch):
            live = length - (row + (batch == 1)) * max(1, length // (batch + 1))
            mask[row, max(1, live) :] = 0
    input_ids = input_ids.where(mask.bool(), torch.tensor(pad))
    types = (torch.arange(length) >= length // 2).long().expand(batch, length)
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types.contiguous()}
