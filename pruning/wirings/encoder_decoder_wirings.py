"""Records of encoder-decoder model types."""

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


def _t5_attention(core: str) -> AttentionWiring:
    return AttentionWiring(
        core=core,
        inputs=separate_qkv(core, "q", "k", "v"),
        output=f"{core}.o",
        head_dim="key_value_proj_dim",
        counts=(("n_heads", "heads"), ("inner_dim", "width")),
        shared_bias="position_bias",
        bias_table="relative_attention_bias",
    )


def _t5_mlp(core: str) -> MlpWiring:
    return MlpWiring(
        core=core,
        inputs=tuple(
            Projection(path=f"{core}.{name}", parts=("neuron",), optional=True)
            for name in ("wi", "wi_0", "wi_1")
        ),
        output=f"{core}.wo",
    )


_T5 = Wiring(
    model_type="t5",
    stacks=(
        StackWiring(
            name="encoder",
            blocks="encoder.block",
            attention=_t5_attention("layer.0.SelfAttention"),
            mlp=_t5_mlp("layer.1.DenseReluDense"),
            config=ConfigKeys(
                num_layers="num_layers", heads="num_heads", neurons="d_ff", head_dim="d_kv"
            ),
            not_shorter="transformers gives T5's decoder a cache of as many layers as the encoder",
        ),
        StackWiring(
            name="decoder",
            blocks="decoder.block",
            attention=_t5_attention("layer.0.SelfAttention"),
            cross_attention=_t5_attention("layer.1.EncDecAttention"),
            mlp=_t5_mlp("layer.2.DenseReluDense"),
            config=ConfigKeys(
                num_layers="num_decoder_layers", heads="num_heads", neurons="d_ff", head_dim="d_kv"
            ),
        ),
    ),
)


def _bart_attention(core: str) -> AttentionWiring:
    return AttentionWiring(
        core=core,
        inputs=separate_qkv(core, "q_proj", "k_proj", "v_proj"),
        output=f"{core}.out_proj",
        head_dim="head_dim",
        counts=(("num_heads", "heads"),),
    )


_BART_MLP = MlpWiring(inputs=(Projection(path="fc1", parts=("neuron",)),), output="fc2")

_BART = Wiring(
    model_type="bart",
    stacks=(
        StackWiring(
            name="encoder",
            blocks="encoder.layers",
            attention=_bart_attention("self_attn"),
            mlp=_BART_MLP,
            config=ConfigKeys(
                num_layers="encoder_layers",
                heads="encoder_attention_heads",
                neurons="encoder_ffn_dim",
            ),
        ),
        StackWiring(
            name="decoder",
            blocks="decoder.layers",
            attention=_bart_attention("self_attn"),
            cross_attention=_bart_attention("encoder_attn"),
            mlp=_BART_MLP,
            config=ConfigKeys(
                num_layers="decoder_layers",
                heads="decoder_attention_heads",
                neurons="decoder_ffn_dim",
            ),
        ),
    ),
)

ENCODER_DECODERS = (
    _T5,
    replace(_T5, model_type="mt5"),
    _BART,
    replace(_BART, model_type="mbart"),
    replace(_BART, model_type="marian"),
)
