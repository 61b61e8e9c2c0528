"""Lists the graphs that a model is exported as, by its kind."""

from __future__ import annotations

from transformers import PreTrainedModel

from exporters.export_config import ExportConfig
from exporters.trace.decoder_parts import list_decoder_parts
from exporters.trace.encoder_decoder_parts import list_encoder_decoder_parts
from exporters.trace.encoder_parts import list_encoder_parts
from exporters.trace.graph_part import GraphPart


def list_parts(model: PreTrainedModel, config: ExportConfig) -> tuple[GraphPart, ...]:
    """Return the graphs of `model`, which keeps its own precision.

    A text or image encoder is `model`; a decoder that generates is `model`, or with
    `graphs="split"` `decoder_model` and `decoder_with_past_model`; an encoder-decoder that
    generates is `encoder_model`, `decoder_model` and `decoder_with_past_model`.
    """
    if not model.can_generate():
        return list_encoder_parts(model)
    if model.config.is_encoder_decoder:
        return list_encoder_decoder_parts(model)
    return list_decoder_parts(model, merged=config.graphs == "merged")
