"""Records against real models: what is read, and what is refused."""

from dataclasses import replace

import pytest
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.wirings.known_wirings import WIRINGS, explain_unwired, refuse_unsupported
from pruning.wirings.structure import read_dims
from pruning.wirings.wiring import Wiring
from tests.pruning.tiny_models import TINY, make_tiny

ASKED_FOR = {
    *("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "deberta-v2", "modernbert"),
    *("vit", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2"),
    *("gpt_neox", "opt", "falcon", "t5", "mt5", "bart", "mbart", "marian"),
}


def test_every_family_that_was_asked_for_is_wired() -> None:
    assert set(WIRINGS) >= ASKED_FOR


def test_every_record_has_a_tiny_model() -> None:
    assert set(WIRINGS) == {tiny.model_type for tiny in TINY.values()}


@pytest.mark.parametrize("wiring", WIRINGS.values(), ids=WIRINGS.keys())
def test_a_record_survives_json(wiring: Wiring) -> None:
    assert Wiring.from_json(wiring.to_json()) == wiring


# Heads, KV heads, head_dim, hidden size, neurons.
_MHA, _GQA = (4, 4, 8, 32, 48), (6, 3, 8, 48, 48)
SIZES = {
    "bert": _MHA,
    "modernbert": _MHA,
    "llama": _GQA,
    "phi3": _GQA,
    "gpt2": _MHA,
    "gpt_neox": _MHA,
    "falcon-multi-query": (4, 1, 8, 32, 48),
    "falcon-grouped": _GQA,
    "falcon-alibi": _MHA,
    "t5-gated": _MHA,
    "bart": _MHA,
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_read_from_the_model(name: str) -> None:
    dims = read_model(make_tiny(name)).dims
    for stack in dims.stacks:
        assert stack.num_layers == 3
        read = (stack.num_heads, stack.num_kv_heads, stack.head_dim)
        assert (*read, stack.hidden_size, stack.intermediate_size) == SIZES[name]
    kinds = [(stack.name, stack.cross_attention) for stack in dims.stacks]
    both = [("encoder", False), ("decoder", True)]
    assert kinds == (both if name in ("t5-gated", "bart") else kinds[:1])


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_of_a_block_is_counted_once(name: str) -> None:
    model = make_tiny(name)
    source = read_model(model)
    for stack, dims in zip(source.wiring.stacks, source.dims.stacks, strict=True):
        block = model.base_model.get_submodule(stack.blocks)[1]
        sizes, attentions = dims.sizes, 1 + dims.cross_attention
        heads = dims.num_heads * (sizes.query_head_weights + sizes.query_head_biases)
        heads += dims.num_kv_heads * (sizes.kv_head_weights + sizes.kv_head_biases)
        heads += sizes.attention_bias + sizes.attention_rest
        neurons = dims.intermediate_size * (sizes.neuron_weights + sizes.neuron_biases)
        claimed = attentions * heads + neurons + sizes.mlp_bias + sizes.norms
        assert claimed == sum(p.numel() for p in block.parameters())
        assert 0 <= sizes.norms <= 12 * dims.hidden_size, "a linear map was taken for a norm"


def test_an_unwired_type_is_told_the_known_ones() -> None:
    message = explain_unwired("swin", ", for a reason")
    assert message.startswith(
        "Model type 'swin' is not wired for pruning, for a reason. Known: bart,"
    )
    assert all(model_type in message for model_type in WIRINGS)
    assert message.endswith("a tiny config in tests/pruning/tiny_models.py.")


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("mixtral", {}, "mixture-of-experts"),
        ("qwen2_moe", {}, "mixture-of-experts"),
        ("deepseek_v3", {}, "mixture-of-experts"),
        ("gpt_oss", {}, "mixture-of-experts"),
        ("albert", {}, "share one set of weights"),
        ("mamba", {}, "state-space or recurrent"),
        ("mamba2", {}, "state-space or recurrent"),
        ("falcon_h1", {}, "state-space or recurrent"),
        ("rwkv", {}, "state-space or recurrent"),
    ],
)
def test_what_no_record_can_describe_is_refused_with_its_reason(
    model_type: str, changes: dict, reason: str
) -> None:
    config = AutoConfig.for_model(model_type, **changes)
    with pytest.raises(NirvanaError, match=f"'{model_type}' cannot be pruned: .*{reason}"):
        refuse_unsupported(config)


def test_an_unclaimed_linear_is_refused() -> None:
    model = make_tiny("bert")
    model.base_model.encoder.layer[1].adapter = nn.Linear(4, 4)
    message = r"Layer 1 of the encoder: the wiring does not claim \['adapter'\].*merge or remove"
    with pytest.raises(NirvanaError, match=message):
        read_model(model)


def test_a_linear_that_is_left_alone_is_not() -> None:
    model = make_tiny("bert")
    for block in model.base_model.encoder.layer:
        block.adapter = nn.Linear(4, 4)
    wiring = WIRINGS["bert"]
    stack = replace(wiring.stacks[0], left_alone=("adapter",))
    assert read_dims(model, replace(wiring, stacks=(stack,))).num_layers == 3


def test_a_linear_that_is_claimed_twice_is_refused() -> None:
    wiring = WIRINGS["bert"]
    stack = wiring.stacks[0]
    mlp = replace(stack.mlp, output=stack.attention.output)
    with pytest.raises(NirvanaError, match=r"claims \['attention.output.dense'\] twice"):
        read_dims(
            make_tiny("bert"), replace(wiring, stacks=(replace(stack, mlp=mlp, left_alone=()),))
        )


def test_a_model_without_blocks_is_refused() -> None:
    model = make_tiny("bert")
    del model.base_model.encoder
    with pytest.raises(NirvanaError, match=r"expects blocks at 'encoder\.layer'"):
        read_model(model)


def test_missing_parts_are_named() -> None:
    model = make_tiny("bert")
    block = model.base_model.encoder.layer[2]
    del block.attention.self.key
    del block.attention.self.all_head_size
    missing = r"Layer 2 .*`attention\.self\.key`, `attention\.self\.all_head_size`"
    with pytest.raises(NirvanaError, match=missing):
        read_model(model)


def test_the_wrong_kind_of_linear_is_refused() -> None:
    wiring = WIRINGS["gpt2"]
    stack = replace(wiring.stacks[0], transposed=False)
    with pytest.raises(NirvanaError, match=r"attn\.c_attn should be a Linear, it is a Conv1D"):
        read_dims(make_tiny("gpt2"), replace(wiring, stacks=(stack,)))


def test_sizes_that_do_not_divide_are_refused() -> None:
    model = make_tiny("bert")
    model.base_model.encoder.layer[0].attention.self.attention_head_size = 5
    message = r"Layer 0 .*attention\.output\.dense has 32 columns, which 5 does not divide"
    with pytest.raises(NirvanaError, match=message):
        read_model(model)


def test_rows_that_are_no_whole_heads_are_refused() -> None:
    model = make_tiny("llama")
    model.base_model.layers[1].self_attn.v_proj = nn.Linear(48, 32, bias=False)
    with pytest.raises(NirvanaError, match=r"v_proj has 32 rows, expected 3 heads of 8"):
        read_model(model)


def test_blocks_that_differ_are_refused() -> None:
    model = make_tiny("bert")
    block = model.base_model.encoder.layer[2]
    block.intermediate.dense, block.output.dense = nn.Linear(32, 40), nn.Linear(40, 32)
    with pytest.raises(NirvanaError, match=r"Layer 2 of the encoder differs from layer 0"):
        read_model(model)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_cross_attention_outside_encoder_decoders_is_refused(model_type: str) -> None:
    config = AutoConfig.for_model(
        model_type, hidden_size=16, num_attention_heads=2, num_hidden_layers=1, n_inner=16
    )
    config.is_decoder, config.add_cross_attention = True, True
    auto = AutoModelForCausalLM if model_type == "gpt2" else AutoModel
    with pytest.raises(NirvanaError, match=r"does not claim .*crossattention"):
        read_model(auto.from_config(config))
