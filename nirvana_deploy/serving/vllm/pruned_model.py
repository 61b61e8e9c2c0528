"""The model class that vLLM's Transformers backend runs for a pruned checkpoint."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import AutoModel
from vllm.model_executor.models.transformers import TransformersForCausalLM

from pruning.checkpoints.modeling_pruned import pruned_class


class PrunedForCausalLM(TransformersForCausalLM):  # type: ignore[misc]
    """The backend's model, with the layers that the config's `nirvana` entry describes."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        # The backend asks AutoModel by the config's class. A class of its own leaves what is
        # registered for the stock one, which a dense draft model may need, as it is.
        config_class: object = type(config)
        config.__class__ = _register_pruned(config_class)
        super().__init__(vllm_config=vllm_config, prefix=prefix)


@cache
def _register_pruned(config_class: Any) -> object:
    """Register the pruned model class under a config class of its own, and return that."""
    stock: Any = AutoModel._model_mapping[config_class]
    own = type(f"Pruned{config_class.__name__}", (config_class,), {})
    model = type(f"Pruned{stock.__name__}", (pruned_class(stock),), {"config_class": own})
    AutoModel.register(own, model)
    return own
