"""vLLM's plugin (entry point `vllm.general_plugins`): it builds pruned models without remote code.

vLLM calls `register` in each of its processes, more than once in some.
"""

from __future__ import annotations

# By transformers' class; all are served by the one model class, which asks the config.
ARCHITECTURES = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
MODEL_CLASS = "nirvana_deploy.serving.vllm.pruned_model:PrunedForCausalLM"


def register() -> None:
    """Make the pruned architectures, and the config of form `deci`, known to vLLM."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from nirvana_deploy.serving.vllm.configuration_deci import DeciConfig

    AutoConfig.register(DeciConfig.model_type, DeciConfig, exist_ok=True)
    known = ModelRegistry.get_supported_archs()
    for name in ARCHITECTURES:
        if f"Pruned{name}" not in known:
            ModelRegistry.register_model(f"Pruned{name}", MODEL_CLASS)
