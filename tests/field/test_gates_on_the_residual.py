"""The gate of a sub-block scales what is added to the residual stream, in every family.

A norm between the output projection and the residual stream (Gemma 2 and 3, GLM-4, OLMo 2) takes a
common scale out of its input: a gate before it has neither an effect nor a gradient.
"""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pruning.cutting.masking import masked
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.gates.gate_kinds import HardConcrete
from pruning.gates.gate_registry import GateRegistry
from pruning.plans.cost import ParameterCost
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import list_sub_blocks
from pruning.wirings.wiring_patterns import find_residual_norms
from tests.pruning.tiny_models import _LM, TINY, batch_for, live_logits, make_tiny

# Types without a record that norm what they add, found by structure.
INFERRED = {
    "glm4": {**_LM, "head_dim": 8},
    "exaone4": {**_LM, "layer_types": ["full_attention"] * 3, "sliding_window": 6},
}
NAMES = (*TINY, *INFERRED)


def make(name: str):
    if name in TINY:
        return make_tiny(name)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **INFERRED[name]))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def list_blocks(registry: GateRegistry):
    for sub_block in list_sub_blocks(registry.dims):
        yield sub_block, registry.block_gates(sub_block.part), registry.block_place(sub_block)


def drop(layer: LayerPlan, part: str) -> LayerPlan:
    name = {"mlp": "kept_neurons", "attention": "kept_heads"}.get(part, "kept_cross_heads")
    return replace(layer, **{name: None})


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_block_gate_scales_what_is_added(name: str) -> None:
    model = make(name)
    batch = batch_for(model)
    before = live_logits(model, batch)
    source = read_model(model)
    whole = source.current.layers
    registry = GateRegistry.attach(model, ParameterCost())
    assert torch.equal(live_logits(model, batch), before), "an open gate changes no bit"
    for sub_block, gates, place in list_blocks(registry):
        gates.scale[place] = 0.0
        shut = live_logits(model, batch)
        gates.scale[place] = 0.5
        half = live_logits(model, batch)
        gates.scale[place] = 1.0
        effect = (shut - before).abs().max()
        assert (half - before).abs().max() > 0.05 * effect > 0, sub_block.name
        assert (half - shut).abs().max() > 0.05 * effect, sub_block.name
    registry.detach(model)
    for sub_block in list_sub_blocks(source.dims):
        layers = list(whole)
        layers[sub_block.layer] = drop(layers[sub_block.layer], sub_block.part)
        plan = plan_for(model, layers)
        with masked(model, plan, source.wiring):
            expected = live_logits(model, batch)
        registry = GateRegistry.attach(model, ParameterCost())
        registry.freeze(layers)
        came = live_logits(model, batch)
        registry.detach(model)
        torch.testing.assert_close(came, expected)
        if sub_block.layer == 1:
            torch.testing.assert_close(live_logits(repack(model, plan), batch), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_block_gate_is_of_the_size_of_its_units(name: str) -> None:
    """By the chain rule a block's gradient is the sum of its units', where nothing lies between."""
    model = make(name)
    registry = GateRegistry.attach(model, ParameterCost())
    masks = {}  # with respect to masks: a sigmoid far out would hide the size
    for gates in registry.gate_tensors():
        gates.scale = gates.scale.clone().requires_grad_()
        masks[id(gates)] = gates.scale
    logits = live_logits(model, batch_for(model))
    target = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    (logits * target).sum().backward()
    for sub_block, gates in registry.sub_block_gates():
        blocks = registry.block_gates(sub_block.part)
        block = masks[id(blocks)].grad[registry.block_place(sub_block)].abs()
        units = masks[id(gates.units)].grad.abs()
        assert block > 1e-2 * units.median(), (sub_block.name, block, units)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text"])
def test_a_norm_does_not_swallow_the_gate_of_the_only_kv_group(name: str) -> None:
    model = make_tiny(name, num_key_value_heads=1)
    batch = batch_for(model)
    before = live_logits(model, batch)
    registry = GateRegistry.attach(model, ParameterCost())
    assert torch.equal(live_logits(model, batch), before)
    live_logits(model, batch).square().sum().backward()
    gate = registry.attentions[1].gate_H.logit
    neurons = registry.mlps[1].gate_N.logit.grad.abs().median()
    assert gate.grad.abs() > 1e-2 * neurons
    with torch.no_grad():
        registry.attentions[1].gate_H.scale.fill_(0.5)
        assert (live_logits(model, batch) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "bert", "llama", "t5", *INFERRED])
@torch.no_grad()
def test_soft_survivors_are_folded_where_they_act(name: str) -> None:
    groups = {"num_key_value_heads": 1} if name.startswith("gemma") else {}
    model = make_tiny(name, **groups) if name in TINY else make(name)
    batch = batch_for(model)
    registry = GateRegistry.attach(model, ParameterCost(), HardConcrete())
    for gate in registry.parameters():
        gate.data = torch.linspace(0.5, 1.5, max(1, gate.numel()))[: gate.numel()]
    layers = [LayerPlan.dense(dims) for dims in registry.dims.layers]
    registry.freeze(layers)
    gated = live_logits(model, batch)
    registry.detach(model)
    torch.testing.assert_close(live_logits(model, batch), gated)
    dense = make_tiny(name, **groups) if name in TINY else make(name)
    assert not torch.allclose(gated, live_logits(dense, batch)), "they scale"


@pytest.mark.parametrize("name", TINY)
def test_the_records_name_the_norms_that_a_run_shows(name: str) -> None:
    model = make_tiny(name)
    wiring = read_model(model).wiring
    assert find_residual_norms(model, wiring, batch_for(model)) == wiring


def test_the_norms_of_types_without_a_record_are_found() -> None:
    stack = read_model(make("glm4")).wiring.stacks[0]
    assert stack.attention.residual_norm == "post_self_attn_layernorm"
    assert stack.mlp.residual_norm == "post_mlp_layernorm"
