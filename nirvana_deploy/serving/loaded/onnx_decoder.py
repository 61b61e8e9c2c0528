"""A decoder's graph with its cache, generating by transformers' own `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from exporters.io_names import PAST_PREFIX
from nirvana_deploy.serving.graph_decoder import GraphDecoder
from nirvana_deploy.serving.loaded.generating_model import (
    CACHE_NAME,
    GeneratingModel,
    make_cache,
    read_layers,
    write_layers,
)
from nirvana_deploy.serving.loaded.onnx_model import MODEL_NAME, read_generation_config


class OnnxDecoder(GeneratingModel):
    """A graph with a cache. `generate` is transformers' own, with sampling, beams and the rest."""

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.generation_config = read_generation_config(folder, config)
        self._decoder = GraphDecoder(folder / MODEL_NAME)
        numbers = sorted({each.layer for each in self._decoder.inputs.cache})
        self._layers = [f"{PAST_PREFIX}{number}." for number in numbers]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits and the longer cache, which the older transformers call past_key_values.

        The mask is of all tokens, those in the cache too; positions count its ones.
        """
        cache = self.choose_cache(cache, past_key_values, use_cache)
        batch, num_new = input_ids.shape
        total = int(cache.get_seq_length()) + num_new
        if attention_mask is None:
            attention_mask = torch.ones((batch, total), dtype=torch.long)
        logits, present = self._decoder.step(
            input_ids.numpy(), attention_mask[:, -total:].numpy(), self._read_cache(cache, batch)
        )
        write_layers(cache, self._layers, present)
        named: dict[str, Any] = {"logits": torch.from_numpy(logits)}
        if use_cache is not False:
            named[CACHE_NAME] = cache
        return CausalLMOutputWithPast(**named)

    def make_cache(self) -> Cache:
        """Return an empty cache: a layer for each attention that the graph still has."""
        return make_cache(self._layers)

    def _read_cache(self, cache: Cache, batch: int) -> dict[str, Any]:
        if not cache.get_seq_length():
            return self._decoder.start(batch)
        return read_layers(cache, self._layers)
