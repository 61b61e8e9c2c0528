"""Makes a batch of encoded rows of any task: pads tokens and labels, each as the row has them."""

from __future__ import annotations

from typing import Any

import torch

from pruning.errors import NirvanaError
from pruning.tasks.encoded_rows import IGNORED
from pruning.tasks.token_masking import hide_tokens

_SPANS = ("start_positions", "end_positions")


def collate(tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad rows to the longest of the batch; labels that are lists get IGNORED where padded.

    Rows of a masked language model that come without labels have their tokens hidden here, by
    torch's global generator.

    Raises:
        NirvanaError: the rows differ in length and the tokenizer has no padding token.
    """
    names = [*tokenizer.model_input_names, "special_tokens_mask"]
    features = [{name: row[name] for name in names if name in row} for row in rows]
    batch = _pad(tokenizer, features)
    left = tokenizer.padding_side == "left"
    length = batch["input_ids"].shape[1]
    if "special_tokens_mask" in batch:
        hidden = hide_tokens(batch["input_ids"], batch.pop("special_tokens_mask"), tokenizer)
        batch["input_ids"], batch["labels"] = hidden
    if "labels" in rows[0]:
        batch["labels"] = _stack_labels(rows, left)
    for name in _SPANS:
        if name in rows[0]:
            shifts = [length - len(row["input_ids"]) if left else 0 for row in rows]
            spots = [row[name] + shift for row, shift in zip(rows, shifts, strict=True)]
            batch[name] = torch.tensor(spots)
    return batch


def _pad(tokenizer: Any, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    if tokenizer.pad_token_id is not None:
        return dict(tokenizer.pad(features, return_tensors="pt"))
    lengths = sorted({len(row["input_ids"]) for row in features})
    if len(lengths) > 1:
        raise NirvanaError(
            f"Rows of {lengths[0]} to {lengths[-1]} tokens must be padded, and "
            f"{type(tokenizer).__name__} has no padding token. Give it one: tokenizer.pad_token = "
            "tokenizer.eos_token, saved beside the model."
        )
    return {name: torch.tensor([row[name] for row in features]) for name in features[0]}


def _stack_labels(rows: list[dict[str, Any]], left: bool) -> torch.Tensor:
    labels = [row["labels"] for row in rows]
    if not isinstance(labels[0], list):
        return torch.tensor(labels)
    # A label a token is padded with its token; a target text is a sequence of its own.
    per_token = all(len(row["labels"]) == len(row["input_ids"]) for row in rows)
    length = max(len(row) for row in labels)
    filling = [[IGNORED] * (length - len(row)) for row in labels]
    pairs = zip(labels, filling, strict=True)
    return torch.tensor([gap + row if left and per_token else row + gap for row, gap in pairs])
