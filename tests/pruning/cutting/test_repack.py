"""Repacked == masked, for every family: outputs, tokens, gradients, and what is refused."""

import copy
import pickle

import pytest
import torch
from transformers import AutoModel, T5EncoderModel

from pruning.cutting.masking import masked
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.plan import LayerPlan, PruningPlan
from tests.pruning.tiny_models import (
    GENERATORS,
    PLANS,
    TINY,
    batch_for,
    live_logits,
    make_tiny,
    uneven_plan,
)

CASES = [(name, attention) for name, tiny in TINY.items() for attention in tiny.attentions]


@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize(("name", "attention"), CASES, ids=map("-".join, CASES))
@torch.no_grad()
def test_repacked_equals_masked(name: str, attention: str, make_plan) -> None:
    model = make_tiny(name, attention)
    plan, wiring = make_plan(model), read_model(model).wiring
    smaller = repack(model, plan)
    for side in ("right", "left"):
        batch = batch_for(model, side)
        with masked(model, plan, wiring):
            expected = live_logits(model, batch)
        torch.testing.assert_close(live_logits(smaller, batch), expected)
        dense = live_logits(model, batch)
        assert not torch.allclose(dense, expected), "the plan changed nothing"


CACHES = [
    (name, cache)
    for name in GENERATORS
    for cache in ("dynamic", "static")
    if cache == "dynamic" or TINY[name].static_cache
]


@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize(("name", "cache"), CACHES, ids=map("-".join, CACHES))
@torch.no_grad()
def test_the_same_tokens_are_generated(name: str, cache: str, make_plan) -> None:
    """And the same logits at each step, past the sliding windows of the tiny configs.

    Tokens alone would prove little: a random model tends to repeat one.
    """
    model = make_tiny(name)
    plan, wiring = make_plan(model), read_model(model).wiring
    prompt = batch_for(model, "left")
    prompt.pop("decoder_input_ids", None)
    settings = {"max_new_tokens": 9, "do_sample": False, "cache_implementation": cache}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    with masked(model, plan, wiring):
        expected = model.generate(**prompt, **settings)
    came = repack(model, plan).generate(**prompt, **settings)
    assert came.sequences.tolist() == expected.sequences.tolist()
    assert len(came.logits) == 9
    torch.testing.assert_close(torch.stack(came.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_those_of_the_masked_model(name: str) -> None:
    model = make_tiny(name)
    plan, wiring, batch = uneven_plan(model), read_model(model).wiring, batch_for(model)
    smaller = repack(model, plan)
    with masked(model, plan, wiring):
        live_logits(model, batch).square().mean().backward()
    live_logits(smaller, batch).square().mean().backward()
    source, own = dict(model.named_parameters()), dict(smaller.named_parameters())
    whole = [n for n, p in own.items() if n in source and p.shape == source[n].shape]
    compared = [n for n in whole if own[n].grad is not None and source[n].grad is not None]
    assert len(compared) > 5
    for name in compared:
        torch.testing.assert_close(own[name].grad, source[name].grad, rtol=1e-3, atol=1e-6)
    assert not [n for n, p in own.items() if p.requires_grad and p.grad is None and "pool" not in n]


def test_repack_leaves_the_dense_model_and_the_random_state_alone() -> None:
    model, batch = make_tiny("bert"), batch_for(make_tiny("bert"))
    before, state = model(**batch).logits, torch.random.get_rng_state()
    config = copy.deepcopy(model.config.to_dict())
    repack(model, uneven_plan(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model(**batch).logits, before)
    assert model.config.to_dict() == config


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "bart"])
def test_a_model_without_a_head_is_repacked_too(name: str) -> None:
    with_head = make_tiny(name)
    base = AutoModel.from_config(with_head.config).eval()
    smaller = repack(base, uneven_plan(base))
    assert type(smaller).__qualname__.startswith("Pruned")
    batch = batch_for(base)
    with torch.no_grad(), masked(base, uneven_plan(base), read_model(base).wiring):
        expected = base(**batch).last_hidden_state
    torch.testing.assert_close(smaller(**batch).last_hidden_state, expected)


def test_the_encoder_of_an_encoder_decoder_is_a_model_of_its_own() -> None:
    encoder = T5EncoderModel(make_tiny("t5").config).eval()
    plan = uneven_plan(encoder)
    assert [stack.name for stack in plan.dims.stacks] == ["encoder"]
    assert repack(encoder, plan).encoder.block[1].layer[0].SelfAttention.q.out_features == 8


def test_dtype_mode_and_device_stay() -> None:
    model = make_tiny("llama").to(torch.bfloat16).train()
    smaller = repack(model, uneven_plan(model))
    assert smaller.training
    assert {p.dtype for p in smaller.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["deberta-v2", "modernbert"])
def test_a_first_block_that_is_special_stays(name: str) -> None:
    model = make_tiny(name)
    whole = LayerPlan.dense(read_model(model).dims.stacks[0])
    plan = plan_for(model, [LayerPlan.drop_block(), whole, whole])
    with pytest.raises(NirvanaError, match=r"first block of the encoder cannot be dropped: the "):
        repack(model, plan)


def test_blocks_that_compute_by_their_number_stay() -> None:
    model = make_tiny("gpt2", scale_attn_by_inverse_layer_idx=True)
    whole = LayerPlan.dense(read_model(model).dims.stacks[0])
    plan = plan_for(model, [whole, LayerPlan.drop_block(), whole])
    with pytest.raises(NirvanaError, match="No block can be dropped: with scale_attn_by_inverse"):
        repack(model, plan)


def test_a_plan_for_another_model_is_refused() -> None:
    plan = uneven_plan(make_tiny("bert"))
    with pytest.raises(NirvanaError, match="intermediate_size 48 of the encoder, the model has 64"):
        repack(make_tiny("bert", intermediate_size=64), plan)
    with pytest.raises(NirvanaError, match="model_type bert, the model has roberta"):
        repack(make_tiny("roberta"), plan)
    encoder = T5EncoderModel(make_tiny("t5").config)
    with pytest.raises(NirvanaError, match=r"stacks \['encoder', 'decoder'\], .* \['encoder'\]"):
        repack(encoder, uneven_plan(make_tiny("t5")))


@pytest.mark.parametrize("name", ["llama", "t5", "bart", "falcon-grouped", "gpt2", "bert"])
@torch.no_grad()
def test_plans_compose(name: str) -> None:
    """Pruned in two steps == pruned at once by the plan that the second step gives."""
    model, batch = make_tiny(name), batch_for(make_tiny(name))
    halved = repack(model, _halve(model))
    again = _halve(halved)
    twice = repack(halved, again)
    assert again.dims == read_model(model).dims
    assert again.made_by == {"method": "halve", "after": {"method": "halve"}}
    assert torch.equal(twice(**batch).logits, repack(model, again)(**batch).logits)
    assert not torch.equal(twice(**batch).logits, halved(**batch).logits)


def _halve(model) -> PruningPlan:
    """Keep the later KV groups and neurons of what each layer of the model has now."""
    layers = []
    current = read_model(model).current
    for layer, dims in zip(current.layers, current.dims.layers, strict=True):
        size = dims.heads_per_group
        groups = len(layer.kept_heads) // size
        heads = tuple(range(groups // 2 * size, groups * size))
        layers.append(
            LayerPlan(
                kept_heads=heads,
                kept_neurons=tuple(range(layer.num_kept_neurons // 3, layer.num_kept_neurons)),
                kept_cross_heads=heads if dims.cross_attention else None,
            )
        )
    return plan_for(model, layers, method="halve")


def test_units_that_are_gone_are_refused() -> None:
    model = make_tiny("bert")
    smaller = repack(model, uneven_plan(model))
    dense = PruningPlan.dense(read_model(model).dims, "")
    with pytest.raises(NirvanaError, match=r"Layer 0: the plan keeps head 1, the model has lost"):
        repack(smaller, dense)


def test_quantised_and_absent_weights_are_refused() -> None:
    model = make_tiny("bert")
    plan = uneven_plan(model)
    with pytest.raises(NirvanaError, match="offloaded"):
        repack(make_tiny("bert").to("meta"), plan)
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(NirvanaError, match=r"quantized: .*then quantize the pruned one"):
        repack(model, plan)


def _keep_blocks(model, encoder: tuple[int, ...], decoder: tuple[int, ...]) -> PruningPlan:
    layers = [
        LayerPlan.dense(dims) if number in kept else LayerPlan.drop_block()
        for dims, kept in zip(read_model(model).dims.stacks, (encoder, decoder), strict=True)
        for number in range(dims.num_layers)
    ]
    return plan_for(model, layers)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize(("encoder", "decoder"), [((0, 1, 2), (1,)), ((2,), (0,))], ids=str)
@torch.no_grad()
def test_a_shallower_decoder_generates(name: str, encoder, decoder) -> None:
    model = make_tiny(name)
    plan = _keep_blocks(model, encoder, decoder)
    prompt = {n: x for n, x in batch_for(model, "left").items() if not n.startswith("decoder")}
    settings = {"max_new_tokens": 5, "return_dict_in_generate": True, "output_logits": True}
    with masked(model, plan, read_model(model).wiring):
        expected = model.generate(**prompt, **settings)
    came = repack(model, plan).generate(**prompt, **settings)
    assert came.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(torch.stack(came.logits), torch.stack(expected.logits))


def test_an_encoder_of_t5_does_not_become_shallower_than_its_decoder() -> None:
    message = (
        r"leaves 2 blocks in the encoder and 3 in the decoder, .* generate: transformers gives"
    )
    model = make_tiny("t5")
    with pytest.raises(NirvanaError, match=message):
        repack(model, _keep_blocks(model, (0, 2), (0, 1, 2)))
    bart = make_tiny("bart")
    assert repack(bart, _keep_blocks(bart, (0, 2), (0, 1, 2))).config.encoder_layers == 2


@pytest.mark.parametrize("name", ["llama", "t5", "falcon-alibi", "phi3"])
def test_a_repacked_model_is_copied_and_pickled_as_any(name: str) -> None:
    model, batch = make_tiny(name), batch_for(make_tiny(name))
    smaller = repack(model, PLANS["dropping"](model))
    for copied in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        assert type(copied) is type(smaller)
        torch.testing.assert_close(copied(**batch).logits, smaller(**batch).logits)


def test_what_torch_has_quantised_is_refused() -> None:
    model = make_tiny("bert")
    plan = uneven_plan(model)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    with pytest.raises(NirvanaError, match="weights are quantized"):
        repack(quantised, plan)
