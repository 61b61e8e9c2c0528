"""What is said of a model's tokens in several kinds of graphs."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from exporters.trace.graph_part import GraphTensor


def describe_tokens(
    model: PreTrainedModel, mask_length: str, length: str = "sequence"
) -> tuple[GraphTensor, GraphTensor]:
    """Return `input_ids` [batch, `length`] and `attention_mask` [batch, `mask_length`]."""
    config = model.config.get_text_config()
    vocabulary = min(config.vocab_size, getattr(config, "decoder_vocab_size", config.vocab_size))
    return (
        GraphTensor(name="input_ids", dtype=torch.int64, shape=("batch", length), limit=vocabulary),
        GraphTensor(
            name="attention_mask", dtype=torch.int64, shape=("batch", mask_length), limit=2
        ),
    )


def find_max_length(model: PreTrainedModel) -> int | None:
    """Return the number of positions that a model has; None without a limit."""
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    # RoBERTa's kind numbers positions from the padding token's id on, behind it.
    table = next((m for n, m in model.named_modules() if n.endswith("position_embeddings")), None)
    skipped = getattr(table, "padding_idx", None)
    return found if found is None or skipped is None else int(found) - skipped - 1


def cache_argument(model: PreTrainedModel) -> str:
    """Return the name of the argument that takes a cache; transformers 5.24 gave it another."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"
