"""Makes a batch of encoded rows of any task: pads tokens and labels, each as the row has them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from pruning.errors import NirvanaError
from pruning.tasks.task import IGNORED

# S: tokens of a row, B: rows
_HIDDEN = 0.15
_REPLACED, _RANDOM = 0.8, 0.1  # of the hidden ones; the rest stay as they are


def hide_tokens(
    input_ids_BS: torch.Tensor,
    special_BS: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs with some tokens hidden, and labels that hold only those.

    At least one token that is not special is hidden in each row that has one: a batch without any
    has no loss.

    Raises:
        NirvanaError: the tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise NirvanaError(
            f"masked-lm needs a tokenizer with a mask token; {type(tokenizer).__name__} has none. "
            "Set data.task to causal-lm, or take a masked language model."
        )
    shape = input_ids_BS.shape
    luck_BS = torch.rand(shape, generator=generator).masked_fill(special_BS.bool(), 2.0)
    chosen_BS = luck_BS < _HIDDEN
    chosen_BS |= (luck_BS == luck_BS.min(-1, keepdim=True).values) & (luck_BS < 1)
    labels_BS = input_ids_BS.masked_fill(~chosen_BS, IGNORED)
    fate_BS = torch.rand(shape, generator=generator)
    random_BS = torch.randint(len(tokenizer), shape, generator=generator)
    hidden_BS = input_ids_BS.where(
        ~(chosen_BS & (fate_BS < _REPLACED)), torch.tensor(tokenizer.mask_token_id)
    )
    swaps_BS = chosen_BS & (fate_BS >= _REPLACED) & (fate_BS < _REPLACED + _RANDOM)
    return torch.where(swaps_BS, random_BS, hidden_BS), labels_BS


_SPANS = ("start_positions", "end_positions")


def collate(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]
) -> dict[str, torch.Tensor]:
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


def _pad(
    tokenizer: PreTrainedTokenizerBase, features: list[dict[str, Any]]
) -> dict[str, torch.Tensor]:
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
