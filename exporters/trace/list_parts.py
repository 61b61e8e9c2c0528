"""Lists the graphs that a model is exported as, by its kind."""

from __future__ import annotations

from transformers import PreTrainedModel

from exporters.export_config import ExportConfig
from exporters.trace.decoder_parts import list_decoder_parts
from exporters.trace.encoder_decoder_parts import list_encoder_decoder_parts
from exporters.trace.encoder_parts import list_encoder_parts
from exporters.trace.graph_part import GraphPart
from exporters.trace.load_source import EXPORTED
from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limit


def list_parts(model: PreTrainedModel, config: ExportConfig) -> tuple[GraphPart, ...]:
    """Return the graphs of `model`, which keeps its own precision.

    A text or image encoder is `model`; a decoder that generates is `model`, or with
    `graphs="split"` `decoder_model` and `decoder_with_past_model`; an encoder-decoder that
    generates is `encoder_model`, `decoder_model` and `decoder_with_past_model`.

    Raises:
        NirvanaError: the model's class does not run as one of these.
    """
    kind = "an encoder"
    try:
        if not model.can_generate():
            return list_encoder_parts(model)
        if model.config.is_encoder_decoder:
            kind = "an encoder and a decoder of text"
            return list_encoder_decoder_parts(model)
        kind = "a decoder with a cache of keys and values"
        return list_decoder_parts(model, merged=config.graphs == "merged")
    except NirvanaError:
        raise
    except Exception as error:  # whatever a class that is not known does
        if explain_limit(error, "export") is not None:
            raise
        # What torch or Python said is in the traceback, which --debug shows.
        raise NirvanaError(
            f"{type(model).__name__} is not exported: it does not run as {kind} does, on tokens or "
            f"pixels alone. {EXPORTED}"
        ) from error
