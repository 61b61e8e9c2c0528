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


def cache_argument(model: PreTrainedModel) -> str:
    """Return the name of the argument that takes a cache; transformers 5.24 gave it another."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"
