"""One tiny random model for each wired type, batches for it, and plans that differ by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from pruning.cutting.repack import plan_for
from pruning.cutting.wiring_inference import read_model
from pruning.plans.plan import LayerPlan, PruningPlan

VOCAB = 99
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "vocab_size": VOCAB,
    "max_position_embeddings": 80,
}
_GQA = {
    **SIZES,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_LM = {**_GQA, **_TOKENS}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
_BART = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCAB,
    "max_position_embeddings": 80,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    **_TOKENS,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_heads": 4,
    "vocab_size": VOCAB,
    "decoder_start_token_id": 1,
    **_TOKENS,
}


@dataclass(frozen=True)
class Tiny:
    """A tiny config, and the task whose head goes on it."""

    model_type: str
    task: Any
    config: dict[str, Any] = field(default_factory=dict)
    attentions: tuple[str, ...] = ("eager", "sdpa")
    static_cache: bool = True

    @property
    def generates(self) -> bool:
        return self.task in (AutoModelForCausalLM, AutoModelForSeq2SeqLM)


def _encoder(model_type: str, attentions=("eager", "sdpa"), **config: Any) -> Tiny:
    config = {**SIZES, "num_labels": 5, **config}
    return Tiny(model_type, AutoModelForSequenceClassification, config, attentions)


def _decoder(
    model_type: str, config: dict[str, Any] = _LM, attentions=("eager", "sdpa"), **changes: Any
) -> Tiny:
    return Tiny(model_type, AutoModelForCausalLM, {**config, **changes}, attentions)


def _seq2seq(model_type: str, config: dict[str, Any], **changes: Any) -> Tiny:
    return Tiny(model_type, AutoModelForSeq2SeqLM, {**config, **changes})


_MHA_LM = {**SIZES, **_TOKENS}
# By test id: one for each wired type, and more where a type has very different configurations.
TINY: dict[str, Tiny] = {
    "bert": _encoder("bert"),
    "roberta": _encoder("roberta", pad_token_id=1),
    "xlm-roberta": _encoder("xlm-roberta", pad_token_id=1),
    "camembert": _encoder("camembert", pad_token_id=1),
    "electra": _encoder("electra", embedding_size=16),
    "distilbert": _encoder("distilbert", hidden_dim=48),
    "deberta-v2": _encoder(
        "deberta-v2",
        ("eager",),
        relative_attention=True,
        pos_att_type="p2c|c2p",
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        conv_kernel_size=3,
    ),
    "deberta-v2-own-position-keys": _encoder(
        "deberta-v2", ("eager",), relative_attention=True, pos_att_type="p2c|c2p"
    ),
    "modernbert": _encoder(
        "modernbert", pad_token_id=0, layer_types=_SLIDING[1:] + _SLIDING[:1], local_attention=8
    ),
    "vit": Tiny(
        "vit",
        AutoModelForImageClassification,
        {**SIZES, "image_size": 16, "patch_size": 4, "num_labels": 5},
    ),
    "llama": _decoder("llama"),
    "llama-biased-tied": _decoder(
        "llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "mistral": _decoder("mistral", sliding_window=6),
    "qwen2": _decoder("qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": _decoder("qwen3"),
    "gemma2": _decoder("gemma2", attentions=("eager",), layer_types=_SLIDING, sliding_window=6),
    "gemma3_text": _decoder("gemma3_text", layer_types=_SLIDING, sliding_window=6),
    "phi3": _decoder("phi3"),
    "gpt2": _decoder("gpt2", {**_MHA_LM, "n_inner": 48}),
    "gpt_neox": _decoder("gpt_neox", _MHA_LM),
    "gpt_neox-serial": _decoder("gpt_neox", _MHA_LM, use_parallel_residual=False),
    "opt": _decoder("opt", _MHA_LM, ffn_dim=48, word_embed_proj_dim=32),
    "opt-post-norm": _decoder(
        "opt", _MHA_LM, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "falcon-multi-query": _decoder("falcon", _MHA_LM, ffn_hidden_size=48),
    "falcon-grouped": _decoder(
        "falcon",
        {k: v for k, v in _LM.items() if k != "head_dim"},
        new_decoder_architecture=True,
        num_kv_heads=3,
        ffn_hidden_size=48,
    ),
    "falcon-alibi": Tiny(
        "falcon",
        AutoModelForCausalLM,
        {**_MHA_LM, "ffn_hidden_size": 48, "multi_query": False, "alibi": True, "bias": True},
        static_cache=False,  # transformers' own ALiBi takes no four-dimensional mask
    ),
    "t5": _seq2seq("t5", _T5),
    "t5-gated": _seq2seq("t5", _T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": _seq2seq("mt5", _T5),
    "bart": _seq2seq("bart", _BART),
    "mbart": _seq2seq("mbart", _BART),
    "marian": _seq2seq("marian", _BART),
}
ENCODERS = tuple(n for n, t in TINY.items() if t.task is AutoModelForSequenceClassification)
GENERATORS = tuple(n for n, t in TINY.items() if t.generates)


def make_tiny(
    name: str,
    attention: str | None = None,
    **changes: Any,
) -> PreTrainedModel:
    """A tiny model in evaluation mode."""
    tiny = TINY[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(tiny.model_type, **{**tiny.config, **changes})
    attention = attention or tiny.attentions[-1]
    model = tiny.task.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():  # biases and norms start at 0 and 1, which hides errors
        if parameter.requires_grad:  # but for Marian's sinusoids, which are not saved
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def padded_batch(vocab_size: int = VOCAB, side: str = "right") -> dict[str, torch.Tensor]:
    """Three rows of 17, 9 and 1 live tokens."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, vocab_size, (3, 17), generator=generator)
    mask = torch.ones_like(input_ids)
    for row, length in enumerate((17, 9, 1)):
        mask[row, length:] = 0
    if side == "left":
        mask = mask.flip(1)
    return {"input_ids": input_ids.where(mask.bool(), 1), "attention_mask": mask}


def batch_for(model: PreTrainedModel, side: str = "right") -> dict[str, torch.Tensor]:
    """A batch for any family: images, padded tokens, and decoder tokens where they are needed."""
    if model.main_input_name == "pixel_values":
        return {
            "pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        }
    batch = padded_batch(side=side)
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = torch.randint(
            3, VOCAB, (3, 7), generator=torch.Generator().manual_seed(2)
        )
    return batch


def live_logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits where they mean something: a decoder's at positions that are not padding."""
    logits = model(**batch).logits
    if logits.dim() == 3 and logits.shape[1] == batch["attention_mask"].shape[1]:
        return logits[batch["attention_mask"].bool()]
    return logits


def uneven_plan(model: PreTrainedModel) -> PruningPlan:
    """Different counts in each layer: odd widths, one head, one KV group."""
    layers = []
    for number, dims in enumerate(read_model(model).dims.layers):
        size, groups = dims.heads_per_group, dims.num_kv_heads
        heads = (
            tuple(h for h in range(dims.num_heads) if h // size != 1 or groups == 1),
            (min(dims.num_heads - 1, size),),  # one query head of one group
            tuple(range(0, dims.num_heads, size)),  # one query head of each group
        )[number % 3]
        neurons = (
            tuple(range(1, 48, 3)),
            (0, 5, 7, 11, 40),
            tuple(range(47)),
        )[number % 3]
        cross = heads[::-1][:1] if dims.cross_attention else None
        layers.append(LayerPlan(kept_heads=heads, kept_neurons=neurons, kept_cross_heads=cross))
    return plan_for(model, layers)


def dropping_plan(model: PreTrainedModel) -> PruningPlan:
    """No heads, no neurons, dropped attention, dropped MLP, dropped cross-attention."""
    layers = []
    for number, dims in enumerate(read_model(model).dims.layers):
        heads, neurons, cross = (
            ((), tuple(range(10)), (1,)),
            (None, (), ()),
            ((dims.num_heads - 1,), None, None),
        )[number % 3]
        cross = cross if dims.cross_attention else None
        layers.append(LayerPlan(kept_heads=heads, kept_neurons=neurons, kept_cross_heads=cross))
    return plan_for(model, layers)


def block_plan(model: PreTrainedModel) -> PruningPlan:
    """A dropped block (the first where it may go) and a thinner one."""
    source = read_model(model)
    layers = []
    for stack in source.wiring.stacks:
        gone = 1 if stack.keep_first else 0
        dims = next(d for d in source.dims.stacks if d.name == stack.name)
        for number in range(dims.num_layers):
            if number == gone:
                layers.append(LayerPlan.drop_block())
                continue
            whole = LayerPlan.dense(dims)
            heads = whole.kept_heads[dims.heads_per_group :] or whole.kept_heads[:1]
            neurons = whole.kept_neurons[: -number or None]
            layers.append(
                LayerPlan(
                    kept_heads=heads if number == 2 else whole.kept_heads,
                    kept_neurons=neurons,
                    kept_cross_heads=whole.kept_cross_heads,
                )
            )
    return plan_for(model, layers)


def late_plan(model: PreTrainedModel) -> PruningPlan:
    """The first layer has no attention: who counts the positions of a cache then?"""
    layers = []
    for number, dims in enumerate(read_model(model).dims.layers):
        whole = LayerPlan.dense(dims)
        heads = None if number % 3 == 0 else whole.kept_heads
        layers.append(
            LayerPlan(
                kept_heads=heads,
                kept_neurons=whole.kept_neurons,
                kept_cross_heads=whole.kept_cross_heads,
            )
        )
    return plan_for(model, layers)


PLANS = {
    "uneven": uneven_plan,
    "dropping": dropping_plan,
    "block": block_plan,
    "late": late_plan,
}
