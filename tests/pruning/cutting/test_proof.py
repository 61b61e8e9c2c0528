"""The proof holds for what is right, and fails for what is not."""

from dataclasses import replace

import pytest
import torch

from pruning.cutting import proof_checks
from pruning.cutting.proof import KINDS, draw_plans
from pruning.cutting.repack import repack
from pruning.cutting.wiring_inference import prove, read_model
from pruning.errors import NirvanaError
from pruning.wirings.known_wirings import WIRINGS
from pruning.wirings.wiring import Wiring
from tests.pruning.tiny_models import TINY, make_tiny, uneven_plan


@pytest.mark.parametrize("name", TINY)
def test_every_family_is_proven(name: str) -> None:
    proof = prove(make_tiny(name))
    assert proof.holds, [check for check in proof.checks if not check.passed]
    made = {check.what.split(",")[0] for check in proof.checks}
    wanted = {"outputs", "gradients of every weight"}
    if TINY[name].generates:
        wanted.add("greedy tokens and their logits")
    assert made == wanted
    assert {check.plan for check in proof.checks} == set(KINDS)


def test_the_model_is_left_as_it_was() -> None:
    model = make_tiny("llama").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prove(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def _swap_parts(wiring: Wiring) -> Wiring:
    """Take GPT-NeoX's interleaved heads for blocks of q, k and v: shapes fit, values do not."""
    stack = wiring.stacks[0]
    (fused,) = stack.attention.inputs
    attention = replace(stack.attention, inputs=(replace(fused, grouped=False),))
    return replace(wiring, stacks=(replace(stack, attention=attention),))


def _forget_counts(wiring: Wiring) -> Wiring:
    stack = wiring.stacks[0]
    attention = replace(stack.attention, counts=())
    return replace(wiring, stacks=(replace(stack, attention=attention),))


@pytest.mark.parametrize(
    ("name", "spoil", "failed"),
    [("gpt_neox", _swap_parts, "outputs"), ("gpt2", _forget_counts, "outputs")],
)
def test_a_wrong_record_does_not_pass(name: str, spoil, failed: str) -> None:
    wiring = spoil(WIRINGS[TINY[name].model_type])
    proof = prove(make_tiny(name), wiring)
    assert not proof.holds
    assert any(check.what.startswith(failed) and not check.passed for check in proof.checks)
    assert all(check.note for check in proof.checks if not check.passed)


def test_a_wrong_gradient_does_not_pass() -> None:
    model = make_tiny("bert")
    plan = uneven_plan(model)
    smaller = repack(model, plan)
    smaller.bert.encoder.layer[0].output.dense.bias.register_hook(lambda gradient: 2 * gradient)
    pair = proof_checks.Pair("plan", model, smaller, plan, read_model(model), [])
    checks = {check.what: check for check in proof_checks.check_pair(pair, 0)}
    gradients = checks.pop("gradients of every weight")
    assert not gradients.passed
    assert gradients.note.startswith("furthest apart at bert.encoder.layer.0.output.dense.bias")
    assert all(check.passed for check in checks.values())


def test_a_wrong_cache_does_not_pass() -> None:
    """A first layer without attention that forgets to count positions."""
    model = make_tiny("llama")
    plans = draw_plans(read_model(model).dims, read_model(model).wiring, 0)
    plan = plans["empty and dropped sub-blocks"]
    smaller = repack(model, plan)
    smaller.model.layers[0].self_attn.counts_positions = False
    pair = proof_checks.Pair("plan", model, smaller, plan, read_model(model), [])
    checks = {check.what: check for check in proof_checks.check_pair(pair, 0)}
    assert not checks["greedy tokens and their logits, dynamic cache"].passed
    assert checks["outputs, eager, padded left"].passed


def test_random_plans_try_everything() -> None:
    source = read_model(make_tiny("t5"))
    plans = draw_plans(source.dims, source.wiring, seed=3)
    layers = [layer for plan in plans.values() for layer in plan.layers]
    assert any(layer.dropped for layer in layers)
    assert any(layer.kept_heads == () for layer in layers)
    assert any(layer.kept_heads is None and not layer.dropped for layer in layers)
    assert any(layer.kept_neurons is None and not layer.dropped for layer in layers)
    assert any(layer.num_kept_heads == 1 for layer in layers)
    assert any(layer.num_kept_neurons % 2 for layer in layers)
    assert draw_plans(source.dims, source.wiring, seed=3) == plans
    assert draw_plans(source.dims, source.wiring, seed=4) != plans


def test_what_cannot_be_proven_is_refused() -> None:
    model = make_tiny("bert")
    with pytest.raises(NirvanaError, match="Expected a dense model to prove"):
        prove(repack(model, uneven_plan(model)))
    with pytest.raises(NirvanaError, match=r"float32 to prove, this one is in torch\.bfloat16"):
        prove(model.to(torch.bfloat16))
