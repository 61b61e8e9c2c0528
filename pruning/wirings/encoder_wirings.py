"""Records of encoder-only model types."""

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

_BERT = Wiring(
    model_type="bert",
    stacks=(
        StackWiring(
            name="encoder",
            blocks="encoder.layer",
            attention=AttentionWiring(
                core="attention.self",
                inputs=separate_qkv("attention.self", "query", "key", "value"),
                output="attention.output.dense",
                head_dim="attention_head_size",
                counts=(("num_attention_heads", "heads"), ("all_head_size", "width")),
            ),
            mlp=MlpWiring(
                inputs=(Projection(path="intermediate.dense", parts=("neuron",)),),
                output="output.dense",
            ),
        ),
    ),
)

_DISTILBERT = Wiring(
    model_type="distilbert",
    stacks=(
        StackWiring(
            name="encoder",
            blocks="transformer.layer",
            attention=AttentionWiring(
                core="attention",
                inputs=separate_qkv("attention", "q_lin", "k_lin", "v_lin"),
                output="attention.out_lin",
                head_dim="attention_head_size",
                counts=(("n_heads", "heads"),),
            ),
            mlp=MlpWiring(
                core="ffn",
                inputs=(Projection(path="ffn.lin1", parts=("neuron",)),),
                output="ffn.lin2",
            ),
            config=ConfigKeys(num_layers="n_layers", heads="n_heads", neurons="hidden_dim"),
        ),
    ),
)

_DEBERTA = Wiring(
    model_type="deberta-v2",
    stacks=(
        StackWiring(
            name="encoder",
            blocks="encoder.layer",
            attention=AttentionWiring(
                core="attention.self",
                inputs=(
                    *separate_qkv("attention.self", "query_proj", "key_proj", "value_proj"),
                    Projection(path="attention.self.pos_key_proj", parts=("query",), optional=True),
                    Projection(
                        path="attention.self.pos_query_proj", parts=("query",), optional=True
                    ),
                ),
                output="attention.output.dense",
                head_dim="attention_head_size",
                counts=(("num_attention_heads", "heads"), ("all_head_size", "width")),
            ),
            mlp=MlpWiring(
                inputs=(Projection(path="intermediate.dense", parts=("neuron",)),),
                output="output.dense",
            ),
            keep_first="the convolution of DeBERTa follows the first block",
        ),
    ),
)

_MODERNBERT = Wiring(
    model_type="modernbert",
    stacks=(
        StackWiring(
            name="encoder",
            blocks="layers",
            attention=AttentionWiring(
                core="attn",
                inputs=(Projection(path="attn.Wqkv", parts=("query", "kv", "kv")),),
                output="attn.Wo",
                head_dim="head_dim",
            ),
            mlp=MlpWiring(
                core="mlp",
                inputs=(Projection(path="mlp.Wi", parts=("neuron", "neuron")),),
                output="mlp.Wo",
            ),
            keep_first="the first block of ModernBERT has no attention norm, the others have one",
        ),
    ),
)

_VIT = Wiring(
    model_type="vit",
    stacks=(
        StackWiring(
            name="encoder",
            blocks="layers",
            attention=AttentionWiring(
                core="attention",
                inputs=separate_qkv("attention", "q_proj", "k_proj", "v_proj"),
                output="attention.o_proj",
                head_dim="head_dim",
                counts=(("num_attention_heads", "heads"),),
            ),
            mlp=MlpWiring(
                core="mlp",
                inputs=(Projection(path="mlp.fc1", parts=("neuron",)),),
                output="mlp.fc2",
            ),
            config=ConfigKeys(head_dim="head_dim"),
        ),
    ),
)

ENCODERS = (
    _BERT,
    replace(_BERT, model_type="roberta"),
    replace(_BERT, model_type="xlm-roberta"),
    replace(_BERT, model_type="camembert"),
    replace(_BERT, model_type="electra"),
    _DISTILBERT,
    _DEBERTA,
    _MODERNBERT,
    _VIT,
)
