"""Loaded graphs that write text: transformers' own `generate`, with a cache that fits the graph."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from nirvana_deploy.serving.loaded.layer_caches import CACHE_NAME
from nirvana_deploy.serving.loaded.onnx_model import OnnxModel


class GeneratingModel(OnnxModel, GenerationMixin):
    """`generate` is transformers' own, with sampling, beams and the rest."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as transformers does; its arguments and results."""
        settings = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("use_cache", settings.use_cache) is not False:
            kwargs.setdefault(CACHE_NAME, self.make_cache())
        with torch.no_grad():
            return super().generate(*args, **kwargs)

    def make_cache(self) -> Cache:
        """Return an empty cache: a layer for each attention that the graph still has."""
        raise NotImplementedError

    def choose_cache(
        self, cache: Cache | None, past_key_values: Cache | None, use_cache: bool | None
    ) -> Any:
        """Return the cache that was given, under its new or its old name, or an empty one."""
        given = cache if cache is not None else past_key_values
        return self.make_cache() if given is None or use_cache is False else given

    @classmethod
    def can_generate(cls) -> bool:
        """Tell transformers that it does."""
        return True
