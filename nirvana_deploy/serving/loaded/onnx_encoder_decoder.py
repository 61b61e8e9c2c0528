"""The three graphs of an encoder-decoder, generating by transformers' own `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from exporters.io_names import PAST_OF_PAIR, to_past
from nirvana_deploy.serving.loaded.generating_model import (
    CACHE_NAME,
    GeneratingModel,
    make_cache,
    read_layers,
    write_layers,
)
from nirvana_deploy.serving.loaded.onnx_model import LoadedGraph, read_generation_config
from pruning.errors import NirvanaError

PARTS = ("encoder_model", "decoder_model", "decoder_with_past_model")


class OnnxEncoderDecoder(GeneratingModel):
    """An encoder, a decoder's first step, and its further steps with two caches.

    The first step makes the keys and values of the encoder's text, which stay as they are; a
    layer without one of its attentions has no place in that cache.
    """

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.generation_config = read_generation_config(folder, config)
        encoder, self._first, self._further = (LoadedGraph(folder / f"{n}.onnx") for n in PARTS)
        self.encoder = GraphEncoder(encoder)
        names = sorted(
            {match[0] for name in self._further.inputs if (match := PAST_OF_PAIR.match(name))}
        )
        names.sort(key=lambda name: int(name.split(".")[1]))
        self._own = [name for name in names if name.endswith(".decoder.")]
        self._cross = [name for name in names if name.endswith(".encoder.")]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        cache: EncoderDecoderCache | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> Seq2SeqLMOutput:
        """Return logits of `decoder_input_ids` and the longer cache.

        `attention_mask` is of the encoder's tokens; all of the decoder's count.

        Raises:
            NirvanaError: the decoder's tokens are missing, or some of them are masked.
        """
        if decoder_input_ids is None:
            raise NirvanaError(
                f"An encoder-decoder needs decoder_input_ids, got none. Begin with the token "
                f"{self.config.decoder_start_token_id} (decoder_start_token_id), or call generate."
            )
        if decoder_attention_mask is not None and not bool(decoder_attention_mask.all()):
            raise NirvanaError(
                "decoder_attention_mask masks tokens, and the decoder's graph has no such input. "
                "Give rows whose decoder_input_ids are of one length."
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        cache = self.choose_cache(cache, past_key_values, use_cache)
        hidden_BED = encoder_outputs[0]
        if attention_mask is None:
            attention_mask = torch.ones(hidden_BED.shape[:2], dtype=torch.long)
        logits = self._step(decoder_input_ids, attention_mask, hidden_BED, cache)
        named: dict[str, Any] = {"logits": logits}
        if use_cache is not False:
            named[CACHE_NAME] = cache
        return Seq2SeqLMOutput(encoder_last_hidden_state=hidden_BED, **named)

    def make_cache(self) -> EncoderDecoderCache:
        """Return two empty caches: a layer for each attention that the graphs still have."""
        return EncoderDecoderCache(make_cache(self._own), make_cache(self._cross))

    def _step(
        self,
        input_ids_BS: torch.Tensor,
        mask_BE: torch.Tensor,
        hidden_BED: torch.Tensor,
        cache: EncoderDecoderCache,
    ) -> torch.Tensor:
        """Return the logits [B, S, vocabulary]; the cache grows in place."""
        own, cross = cache.self_attention_cache, cache.cross_attention_cache
        named = {"input_ids": input_ids_BS.numpy(), "encoder_attention_mask": mask_BE.numpy()}
        if not own.get_seq_length():
            named["encoder_hidden_states"] = hidden_BED.numpy()
            made = self._first.run(named)
            write_layers(cross, self._cross, _as_past(made))
        else:
            past = {**read_layers(own, self._own), **read_layers(cross, self._cross)}
            made = self._further.run({**named, **past})
        write_layers(own, self._own, _as_past(made))
        return torch.from_numpy(made["logits"])


class GraphEncoder(nn.Module):
    """The encoder, as `generate` asks for it."""

    main_input_name = "input_ids"

    def __init__(self, graph: LoadedGraph) -> None:
        super().__init__()
        self._graph = graph

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Return the last hidden states; without a mask, all tokens count."""
        if input_ids is None:
            raise NirvanaError("The encoder needs input_ids, got none. Give a tokenizer's output.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        named = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        hidden_BED = self._graph.run(named)["last_hidden_state"]
        return BaseModelOutput(last_hidden_state=torch.from_numpy(hidden_BED))


def _as_past(made: dict[str, object]) -> dict[str, object]:
    """Return a step's cache by the names of the inputs that it becomes."""
    return {to_past(name): made[name] for name in made}
