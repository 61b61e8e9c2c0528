"""Random inputs for a model of any family: padded tokens, images, decoder tokens."""

from __future__ import annotations

from typing import Literal

import torch
from transformers import PreTrainedModel

from pruning.token_ids import find_pad, list_steering, list_usable

# Live tokens of each row of a probe; the shortest still has two, as some poolings need.
LENGTHS = (13, 7, 2)
_DECODER_LENGTH = 5

Side = Literal["left", "right"]


def draw_inputs(model: PreTrainedModel, side: Side, seed: int) -> dict[str, torch.Tensor]:
    """Return a batch that `model` takes, padded on one side; images know no padding."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    if model.main_input_name == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn((2, config.num_channels, height, width), generator=generator)
        return {"pixel_values": pixels.to(model.device)}
    mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    if side == "left":
        mask = mask.flip(1)
    tokens = _draw_tokens(model, tuple(mask.shape), generator)
    text_config = config.get_text_config()
    pad = find_pad(getattr(text_config, "pad_token_id", None), text_config.vocab_size) or 0
    inputs = {"input_ids": tokens.where(mask.bool(), pad), "attention_mask": mask}
    if config.is_encoder_decoder:
        shape = (len(LENGTHS), _DECODER_LENGTH)
        inputs["decoder_input_ids"] = _draw_tokens(model, shape, generator)
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def _draw_tokens(
    model: PreTrainedModel, shape: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Return token ids of the whole vocabulary, but for those that steer some models."""
    config = model.config.get_text_config()
    usable = list_usable(config.vocab_size, list_steering(config.to_dict()))
    return torch.from_numpy(usable)[torch.randint(len(usable), shape, generator=generator)]
