"""One tiny random model for each wired type."""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from pruning.plan import LayerPlan, PruningPlan
from pruning.repack import plan_for

SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 80,
}
TYPES = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
    "electra": {"embedding_size": 16},
    "distilbert": {"hidden_dim": 48},
}


def make_tiny(model_type: str, attention: str = "sdpa", **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, **{**SIZES, "num_labels": 5, **TYPES[model_type], **changes}
    )
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():  # biases and norms start at 0 and 1, which hides errors
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def padded_batch(vocab_size: int = 99) -> dict[str, torch.Tensor]:
    """Three rows of 17, 9 and 1 live tokens."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, vocab_size, (3, 17), generator=generator)
    mask = torch.ones_like(input_ids)
    for row, length in enumerate((17, 9, 1)):
        mask[row, length:] = 0
    return {"input_ids": input_ids.where(mask.bool(), 1), "attention_mask": mask}


def uneven_plan(model: PreTrainedModel) -> PruningPlan:
    """Different counts in each layer: odd widths, one head, no neurons."""
    return plan_for(
        model,
        [
            LayerPlan(kept_heads=(0, 2, 3), kept_neurons=tuple(range(1, 48, 3))),
            LayerPlan(kept_heads=(1,), kept_neurons=(0, 5, 7, 11, 40)),
            LayerPlan(kept_heads=(0, 1, 2, 3), kept_neurons=tuple(range(47))),
        ],
    )


def dropping_plan(model: PreTrainedModel) -> PruningPlan:
    """No heads, no neurons, dropped attention, dropped MLP."""
    return plan_for(
        model,
        [
            LayerPlan(kept_heads=(), kept_neurons=tuple(range(10))),
            LayerPlan(kept_heads=None, kept_neurons=()),
            LayerPlan(kept_heads=(3,), kept_neurons=None),
        ],
    )
