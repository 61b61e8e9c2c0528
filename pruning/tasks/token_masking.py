"""Hides tokens for a masked language model to guess (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch

from pruning.errors import NirvanaError
from pruning.tasks.encoded_rows import IGNORED

# S: tokens of a row, B: rows
_HIDDEN = 0.15
_REPLACED, _RANDOM = 0.8, 0.1  # of the hidden ones; the rest stay as they are


def hide_tokens(
    input_ids_BS: torch.Tensor,
    special_BS: torch.Tensor,
    tokenizer: Any,
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
