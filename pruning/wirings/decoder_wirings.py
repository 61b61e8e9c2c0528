"""Records of decoder-only model types."""

from __future__ import annotations

from dataclasses import replace

from pruning.wirings.wiring import (
    AttentionWiring,
    ConfigKeys,
    MlpWiring,
    Projection,
    StackWiring,
    Wiring,
    separate_qkv,
)

_SEPARATE_QKV = separate_qkv("self_attn", "q_proj", "k_proj", "v_proj")

_LLAMA = Wiring(
    model_type="llama",
    stacks=(
        StackWiring(
            name="decoder",
            blocks="layers",
            attention=AttentionWiring(
                core="self_attn",
                inputs=_SEPARATE_QKV,
                output="self_attn.o_proj",
                head_dim="head_dim",
                counts=(("num_key_value_groups", "groups"),),
            ),
            mlp=MlpWiring(
                core="mlp",
                inputs=(
                    Projection(path="mlp.gate_proj", parts=("neuron",)),
                    Projection(path="mlp.up_proj", parts=("neuron",)),
                ),
                output="mlp.down_proj",
            ),
            config=ConfigKeys(kv_heads="num_key_value_heads", head_dim="head_dim"),
        ),
    ),
)

_LLAMA_STACK = _LLAMA.stacks[0]
_GEMMA2 = Wiring(
    model_type="gemma2",
    stacks=(
        replace(
            _LLAMA_STACK,
            attention=replace(_LLAMA_STACK.attention, residual_norm="post_attention_layernorm"),
            mlp=replace(_LLAMA_STACK.mlp, residual_norm="post_feedforward_layernorm"),
        ),
    ),
)

_PHI3 = Wiring(
    model_type="phi3",
    stacks=(
        StackWiring(
            name="decoder",
            blocks="layers",
            attention=AttentionWiring(
                core="self_attn",
                inputs=(Projection(path="self_attn.qkv_proj", parts=("query", "kv", "kv")),),
                output="self_attn.o_proj",
                head_dim="head_dim",
                counts=(("num_key_value_heads", "kv_heads"), ("num_key_value_groups", "groups")),
                config_counts=(
                    ("num_attention_heads", "heads"),
                    ("num_key_value_heads", "kv_heads"),
                ),
            ),
            mlp=MlpWiring(
                core="mlp",
                inputs=(Projection(path="mlp.gate_up_proj", parts=("neuron", "neuron")),),
                output="mlp.down_proj",
            ),
            config=ConfigKeys(kv_heads="num_key_value_heads", head_dim="head_dim"),
        ),
    ),
)

_GPT2 = Wiring(
    model_type="gpt2",
    stacks=(
        StackWiring(
            name="decoder",
            blocks="h",
            attention=AttentionWiring(
                core="attn",
                inputs=(Projection(path="attn.c_attn", parts=("query", "kv", "kv")),),
                output="attn.c_proj",
                head_dim="head_dim",
                counts=(("num_heads", "heads"), ("split_size", "width")),
            ),
            mlp=MlpWiring(
                core="mlp",
                inputs=(Projection(path="mlp.c_fc", parts=("neuron",)),),
                output="mlp.c_proj",
            ),
            config=ConfigKeys(num_layers="n_layer", heads="n_head", neurons="n_inner"),
            numbered_if="scale_attn_by_inverse_layer_idx",
            transposed=True,
        ),
    ),
)

_GPT_NEOX = Wiring(
    model_type="gpt_neox",
    stacks=(
        StackWiring(
            name="decoder",
            blocks="layers",
            attention=AttentionWiring(
                core="attention",
                inputs=(
                    Projection(
                        path="attention.query_key_value",
                        parts=("query", "kv", "kv"),
                        grouped=True,
                    ),
                ),
                output="attention.dense",
                head_dim="head_size",
            ),
            mlp=MlpWiring(
                core="mlp",
                inputs=(Projection(path="mlp.dense_h_to_4h", parts=("neuron",)),),
                output="mlp.dense_4h_to_h",
            ),
        ),
    ),
)

_FALCON = Wiring(
    model_type="falcon",
    stacks=(
        StackWiring(
            name="decoder",
            blocks="h",
            attention=AttentionWiring(
                core="self_attention",
                inputs=(
                    # One group for multi-query, a group a head without it.
                    Projection(
                        path="self_attention.query_key_value",
                        parts=("query", "kv", "kv"),
                        grouped=True,
                    ),
                ),
                output="self_attention.dense",
                head_dim="head_dim",
                counts=(("num_heads", "heads"), ("num_kv_heads", "kv_heads")),
                # With ALiBi, both have a slice a head; without, the mask has one for all.
                per_head_inputs=("alibi", "attention_mask"),
            ),
            mlp=MlpWiring(
                core="mlp",
                inputs=(Projection(path="mlp.dense_h_to_4h", parts=("neuron",)),),
                output="mlp.dense_4h_to_h",
            ),
            config=ConfigKeys(kv_heads="num_kv_heads", neurons="ffn_hidden_size"),
        ),
    ),
)

_OPT = Wiring(
    model_type="opt",
    stacks=(
        StackWiring(
            name="decoder",
            blocks="decoder.layers",
            attention=AttentionWiring(
                core="self_attn",
                inputs=_SEPARATE_QKV,
                output="self_attn.out_proj",
                head_dim="head_dim",
                counts=(("num_heads", "heads"),),
            ),
            mlp=MlpWiring(inputs=(Projection(path="fc1", parts=("neuron",)),), output="fc2"),
            config=ConfigKeys(neurons="ffn_dim"),
        ),
    ),
)

DECODERS = (
    _LLAMA,
    replace(_LLAMA, model_type="mistral"),
    replace(_LLAMA, model_type="qwen2"),
    replace(_LLAMA, model_type="qwen3"),
    _GEMMA2,
    replace(_GEMMA2, model_type="gemma3_text"),
    _PHI3,
    _GPT2,
    _GPT_NEOX,
    _FALCON,
    _OPT,
)
