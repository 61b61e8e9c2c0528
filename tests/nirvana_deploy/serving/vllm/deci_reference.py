"""DeciLM as vLLM computes it, in a few lines of torch: the config's blocks and the weights alone.

What is asked of the config, and how, is as in vLLM's nemotron_nas.py: KV heads are query heads by
`n_heads_in_group`, a missing part has no weights and no norm, the first block has an attention.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

# B batch, S sequence, H heads, K KV heads, C channels of a head, D hidden size.


def run_deci(folder: Path, ids_BS: torch.Tensor) -> torch.Tensor:
    config = json.loads((folder / "config.json").read_text())
    weights = {}
    for path in folder.glob("*.safetensors"):
        weights.update(load_file(path))
    assert config["architectures"] == ["DeciLMForCausalLM"]
    assert config["model_type"] == "nemotron-nas"
    assert not config["block_configs"][0]["attention"]["no_op"]
    x_BSD = weights.pop("model.embed_tokens.weight")[ids_BS]
    for number, block in enumerate(config["block_configs"]):
        prefix = f"model.layers.{number}."
        own = {k.removeprefix(prefix): weights.pop(k) for k in list(weights) if prefix in k}
        if not block["attention"]["no_op"]:
            normed = _norm(x_BSD, own.pop("input_layernorm.weight"), config)
            x_BSD = x_BSD + _attend(normed, own, block["attention"], config)
        if not block["ffn"]["no_op"]:
            normed = _norm(x_BSD, own.pop("post_attention_layernorm.weight"), config)
            x_BSD = x_BSD + _feed_forward(normed, own, block["ffn"], config)
        assert not own, f"vLLM's loader would refuse {sorted(own)} of block {number}"
    x_BSD = _norm(x_BSD, weights.pop("model.norm.weight"), config)
    logits = x_BSD @ weights.pop("lm_head.weight").T
    assert not weights, sorted(weights)
    return logits


def _attend(x_BSD: torch.Tensor, own: dict[str, Any], block: Any, config: Any) -> torch.Tensor:
    heads, width = config["num_attention_heads"], config["head_dim"]
    kv_heads = heads // block["n_heads_in_group"]
    q, k, v = (
        _linear(x_BSD, own, f"self_attn.{name}_proj", n * width).unflatten(-1, (n, width))
        for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
    )
    q, k = (_rotate(t.transpose(1, 2), config) for t in (q, k))
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v.transpose(1, 2)))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return _linear(mixed.transpose(1, 2).flatten(2), own, "self_attn.o_proj", x_BSD.shape[-1])


def _feed_forward(x_BSD: torch.Tensor, own: dict[str, Any], block: Any, config: Any) -> Any:
    if "ffn_mult" in block:
        factor = int(2 * block["ffn_mult"] * config["hidden_size"] / 3)
        width = -(-factor // 256) * 256
    else:
        width = block["intermediate_size"]
    gate, up = (_linear(x_BSD, own, f"mlp.{name}_proj", width) for name in ("gate", "up"))
    return _linear(F.silu(gate) * up, own, "mlp.down_proj", x_BSD.shape[-1])


def _linear(x: torch.Tensor, own: dict[str, Any], name: str, num_out: int) -> torch.Tensor:
    weight = own.pop(f"{name}.weight")
    assert weight.shape == (num_out, x.shape[-1]), (name, tuple(weight.shape), num_out)
    return F.linear(x, weight, own.pop(f"{name}.bias", None))


def _norm(x_BSD: torch.Tensor, weight: torch.Tensor, config: Any) -> torch.Tensor:
    return F.rms_norm(x_BSD, weight.shape, weight, config["rms_norm_eps"])


def _rotate(x_BHSC: torch.Tensor, config: Any) -> torch.Tensor:
    length, width = x_BHSC.shape[-2:]
    base = config["rope_parameters"]["rope_theta"]
    steps = base ** -(torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(length), steps).repeat(1, 2)
    first, second = x_BHSC.chunk(2, -1)
    return x_BHSC * angles.cos() + torch.cat([-second, first], -1) * angles.sin()
