import math

import pytest
import torch

from pruning.cutting.repack import plan_for, repack
from pruning.errors import NirvanaError
from pruning.gates.gate_function import HardConcreteFunction
from pruning.gates.gate_kinds import HardConcrete
from pruning.gates.gate_registry import GateRegistry
from pruning.plans.cost import ParameterCost
from tests.pruning.tiny_models import batch_for, live_logits, make_tiny

FUNCTION = HardConcreteFunction(HardConcrete())
LOGITS = torch.tensor([-4.0, -1.5, -0.2, 0.0, 0.7, 2.0, 4.5])


def test_a_draw_is_the_stretched_sigmoid_of_the_noise() -> None:
    torch.manual_seed(3)
    came = FUNCTION.mask(LOGITS, training=True)
    torch.manual_seed(3)
    u = torch.empty(7).uniform_(1e-6, 1 - 1e-6)
    expected = [
        min(max(1.2 / (1 + math.exp(-(math.log(x / (1 - x)) + a) * 1.5)) - 0.1, 0.0), 1.0)
        for x, a in zip(u.double().tolist(), LOGITS.tolist(), strict=True)
    ]
    torch.testing.assert_close(came, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert not torch.equal(FUNCTION.mask(LOGITS, training=True), came), "each pass draws anew"


def test_the_chance_to_be_open_is_that_of_the_draws() -> None:
    torch.manual_seed(0)
    draws = torch.stack([FUNCTION.mask(LOGITS, training=True) for _ in range(4000)])
    share = (draws > 0).float().mean(0)
    torch.testing.assert_close(FUNCTION.probability(LOGITS), share, atol=0.03, rtol=0.0)
    expected = torch.sigmoid(LOGITS - 2 / 3 * math.log(0.1 / 1.1))
    torch.testing.assert_close(FUNCTION.kept(LOGITS), expected)


def test_outside_of_training_the_expected_number_is_zero() -> None:
    mask = FUNCTION.mask(LOGITS, training=False)
    num_zeros = round(float((1 - FUNCTION.probability(LOGITS)).sum()))
    assert 0 < num_zeros < 7
    assert mask[:num_zeros].tolist() == [0.0] * num_zeros, "the smallest go"
    torch.testing.assert_close(mask[num_zeros:], torch.sigmoid(LOGITS[num_zeros:] * 1.5 * 0.8))


def test_draws_and_chances_have_gradients() -> None:
    logit = torch.zeros(200, requires_grad=True)
    torch.manual_seed(0)
    FUNCTION.mask(logit, training=True).sum().backward()
    inside = (logit.grad > 0).float().mean()
    assert 0.2 < inside < 1.0, "those that were cut at 0 or 1 have none"
    logit.grad = None
    FUNCTION.probability(logit).sum().backward()
    assert (logit.grad > 0).all()


def test_decided_gates_are_exactly_open_or_shut() -> None:
    decided = torch.tensor([10.0, -10.0, 10.0])
    for training in (True, False):
        assert FUNCTION.mask(decided, training).tolist() == [1.0, 0.0, 1.0]
    # A draw alone comes so near to 0 and 1 that it is rounded there, unless the stretch is small.
    narrow = HardConcreteFunction(HardConcrete(temperature=5.0, stretch=1e-3))
    assert narrow.mask(decided, training=True).tolist() == [1.0, 0.0, 1.0]
    assert FUNCTION.kept(decided).tolist() == [1.0, 0.0, 1.0]


def test_units_start_open() -> None:
    registry = GateRegistry.attach(make_tiny("bert"), ParameterCost(), HardConcrete())
    assert float(registry.mlps[0].gate_N.probability().min().detach()) > 0.95


def test_logits_are_kept_in_the_range_in_which_they_learn() -> None:
    registry = GateRegistry.attach(make_tiny("bert"), ParameterCost(), HardConcrete())
    for gate in registry.parameters():
        gate.data = torch.linspace(-9, 9, gate.numel())
    registry.constrain()
    for gate in registry.parameters():
        assert float(gate.min().detach()) == pytest.approx(math.log(0.01))
        assert float(gate.max().detach()) == pytest.approx(math.log(100))


def make_random(name: str):
    model = make_tiny(name)
    registry = GateRegistry.attach(model, ParameterCost(), HardConcrete())
    draw = torch.Generator().manual_seed(4)
    for gate in registry.parameters():
        gate.data = 2 * torch.randn(gate.shape, generator=draw)
    registry.constrain()
    return model, registry


# Plain, transposed weights, a bias in llama, cross-attention without biases and with.
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama-biased-tied", "t5", "bart"])
@torch.no_grad()
def test_repacked_is_gated_with_the_values_folded_in(name: str) -> None:
    model, registry = make_random(name)
    batch = batch_for(model)
    gated = live_logits(model, batch)
    layers = registry.kept_layers()
    registry.freeze(layers)
    assert registry.kept_layers() == layers
    assert registry.undecided_fraction() == 0.0
    torch.testing.assert_close(live_logits(model, batch), gated)
    registry.detach(model)
    plan = plan_for(model, layers)
    torch.testing.assert_close(live_logits(repack(model, plan), batch), gated)


@torch.no_grad()
def test_training_draws_are_the_seeds() -> None:
    model, _ = make_random("llama")  # it has no dropout
    model.train()
    batch = batch_for(model)
    found = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        found.append(live_logits(model, batch))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@torch.no_grad()
def test_a_frozen_gate_is_drawn_no_more() -> None:
    model, registry = make_random("llama")
    registry.freeze(registry.kept_layers())
    model.train()
    batch = batch_for(model)
    assert torch.equal(live_logits(model, batch), live_logits(model, batch))


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(NirvanaError, match="temperature must be above 0, got 0"):
        HardConcrete(temperature=0)
