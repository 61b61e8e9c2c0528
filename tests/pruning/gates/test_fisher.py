import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from pruning.checkpoints.prunable_model import read_model
from pruning.gates.fisher import score_fisher
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.warm_start import SPREAD, warm_start
from pruning.plans.cost import MacCost, group_cost
from pruning.wirings.structure import find_stacks
from tests.pruning.tiny_models import TINY, batch_for, make_tiny

# A plain encoder, grouped queries, a cross-attention.
FAMILIES = pytest.mark.parametrize("name", ["bert", "llama", "bart"])


def batches(name: str, model: PreTrainedModel):
    for seed in range(3):
        batch = batch_for(model)
        like = batch.get("decoder_input_ids", batch["input_ids"])
        shape = like.shape if TINY[name].generates else like.shape[:1]
        generator = torch.Generator().manual_seed(seed)
        yield {**batch, "labels": torch.randint(0, 5, shape, generator=generator)}


def brute_force(name: str, model: PreTrainedModel, output: nn.Module, num_units: int):
    """The same scores through a mask written straight into the model's forward pass."""
    scores = torch.zeros(num_units)
    width = output.weight.shape[1] // num_units
    for batch in batches(name, model):
        mask = torch.ones(num_units, requires_grad=True)
        handle = output.register_forward_pre_hook(
            lambda _, args, m=mask: (args[0] * m.repeat_interleave(width),)
        )
        (gradient,) = torch.autograd.grad(model(**batch).loss, mask)
        handle.remove()
        scores += gradient**2
    return scores


@FAMILIES
def test_scores_are_squared_gradients_of_the_masks(name: str) -> None:
    model = make_tiny(name)
    source, expected, number = read_model(model), {}, 0
    for stack, blocks in find_stacks(model, source.wiring):
        for block in blocks:
            groups = source.dims.layers[number].num_kv_heads
            parts = [("mlps", "gate_N", stack.mlp.output, 48)]
            parts += [("attentions", "gate_H", stack.attention.output, groups)]
            if stack.cross_attention is not None:
                parts += [("cross_attentions", "gate_H", stack.cross_attention.output, groups)]
            for part, gate, path, num_units in parts:
                output = block.get_submodule(path)
                scores = brute_force(name, model, output, num_units)
                expected[f"{part}.{number}.{gate}"] = scores
            number += 1
    registry = GateRegistry.attach(model, MacCost(32))
    scores = score_fisher(model, registry, batches(name, model))
    assert set(scores) == {*expected, "mlp_block_gate"} == set(dict(registry.named_parameters()))
    for gate, values in expected.items():
        # As shares of the greatest: the scores themselves are below the absolute tolerance.
        torch.testing.assert_close(scores[gate] / values.max(), values / values.max())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@FAMILIES
def test_a_warm_start_prunes_in_order_of_score_per_cost(name: str) -> None:
    registry = GateRegistry.attach(make_tiny(name), MacCost(32))
    scores = {n: torch.rand_like(p) for n, p in registry.named_parameters()}
    warm_start(registry, scores)
    logits, density = [], []
    for number, gates in enumerate(registry.layer_gates()):
        group = group_cost(gates.dims, registry.cost)
        neuron = registry.cost.neuron_cost(gates.dims)
        found = [(gates.heads.gate_H, f"attentions.{number}.gate_H", group)]
        found += [(gates.mlp.gate_N, f"mlps.{number}.gate_N", neuron)]
        if gates.cross_heads is not None:
            found += [(gates.cross_heads.gate_H, f"cross_attentions.{number}.gate_H", group)]
        logits += [gate.detach() for gate, _, _ in found]
        density += [scores[key] / cost for _, key, cost in found]
    assert torch.equal(torch.cat(logits).argsort(), torch.cat(density).argsort())
    assert torch.cat(logits).min() > 0, "all gates start open"
    # A shift of half the spread closes half of the cost.
    for gates in (*registry.head_gates(), *registry.mlp_gates()):
        for gate in gates.parameters():
            gate.data -= SPREAD / 2
    assert abs(float(registry.kept_density().detach()) - 0.5) < 0.05
