import torch

from pruning.cost import MacCost
from pruning.fisher import score_fisher
from pruning.gate_registry import GateRegistry
from pruning.warm_start import SPREAD, warm_start
from tests.pruning.tiny_models import make_tiny, padded_batch


def batches():
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        batch = padded_batch()
        yield {**batch, "labels": torch.randint(0, 5, (3,), generator=generator)}


def brute_force(model, layer: int) -> torch.Tensor:
    """The same scores through a mask written straight into the model's forward pass."""
    scores = torch.zeros(4)
    for batch in batches():
        mask = torch.ones(4, requires_grad=True)
        output = model.base_model.encoder.layer[layer].attention.output.dense
        handle = output.register_forward_pre_hook(
            lambda _, args, m=mask: (args[0] * m.repeat_interleave(8),)
        )
        (gradient,) = torch.autograd.grad(model(**batch).loss, mask)
        handle.remove()
        scores += gradient**2
    return scores


def test_scores_are_squared_gradients_of_the_masks() -> None:
    model = make_tiny("bert")
    expected = [brute_force(model, layer) for layer in range(3)]
    registry = GateRegistry.attach(model, MacCost(32))
    scores = score_fisher(model, registry, batches())
    for layer in range(3):
        torch.testing.assert_close(scores[f"attentions.{layer}.gate_H"], expected[layer])
    assert set(scores) == set(dict(registry.named_parameters()))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_warm_start_prunes_in_order_of_score_per_cost() -> None:
    registry = GateRegistry.attach(make_tiny("bert"), MacCost(32))
    scores = {n: torch.rand_like(p) for n, p in registry.named_parameters()}
    warm_start(registry, scores)
    heads = torch.cat([g.gate_H.detach() for g in registry.head_gates()])
    neurons = torch.cat([g.gate_N.detach() for g in registry.mlp_gates()])
    dims, cost = registry.dims, registry.cost
    density = torch.cat(
        [scores[f"attentions.{i}.gate_H"] / cost.head_cost(dims) for i in range(3)]
        + [scores[f"mlps.{i}.gate_N"] / cost.neuron_cost(dims) for i in range(3)]
    )
    logits = torch.cat([heads, neurons])
    assert torch.equal(logits.argsort(), density.argsort())
    assert logits.min() > 0, "all gates start open"
    # A shift of half the spread closes half of the cost.
    for gates in (*registry.head_gates(), *registry.mlp_gates()):
        for gate in gates.parameters():
            gate.data -= SPREAD / 2
    assert abs(float(registry.kept_density().detach()) - 0.5) < 0.05
