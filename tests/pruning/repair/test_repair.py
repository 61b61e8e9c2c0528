from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pruning.cutting.masking import masked
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import LeastSquares, MeanShift, NoRepair
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, make_layer
from pruning.repair.repair import prune_in_place
from pruning.scoring.saliency import ScoringTask
from tests.pruning.oneshot.tiny_tasks import FAMILIES, logits_of, make_task

EXACT = LeastSquares(damping=1e-6)


def dense_layers(task: ScoringTask) -> list[LayerPlan]:
    return [LayerPlan.dense(dims) for dims in read_model(task.model).dims.layers]


def without_last_units(task: ScoringTask) -> list[LayerPlan]:
    """Every second layer loses its last KV group, each its last third of the neurons."""
    layers = []
    for number, dims in enumerate(read_model(task.model).dims.layers):
        groups = range(dims.num_kv_heads - (number % 2 if dims.num_kv_heads > 1 else 0))
        layers.append(
            make_layer(dims, attention=groups, mlp=range(32), cross_attention=range(1, 4))
        )
    return layers


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_kept_whole_stays_as_it_is(name: str) -> None:
    task = make_task(name)
    before = logits_of(task)
    prune_in_place(task, dense_layers(task), LeastSquares())
    torch.testing.assert_close(logits_of(task), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_repaired_model_repacks_to_the_same_logits(name: str) -> None:
    task = make_task(name)
    layers = without_last_units(task)
    prune_in_place(task, layers, LeastSquares())
    masked_logits = logits_of(task)
    smaller = repack(task.model, plan_for(task.model, layers))
    torch.testing.assert_close(
        logits_of(replace(task, model=smaller)), masked_logits, atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_no_repair_is_masking(name: str) -> None:
    task = make_task(name)
    layers = without_last_units(task)
    source = read_model(task.model)
    with masked(task.model, plan_for(task.model, layers), source.wiring):
        expected = logits_of(task)
    prune_in_place(task, layers, NoRepair())
    torch.testing.assert_close(logits_of(task), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "phi3", "t5", "bart", "modernbert"])
def test_a_unit_that_another_one_repeats_can_go_without_loss(name: str) -> None:
    task = make_task(name)
    site = task.sites[SubBlock(1, "mlp")]
    with torch.no_grad():
        for projection, module in site.inputs:
            weight = module.weight.T if site.transposed else module.weight
            for part in range(len(projection.parts)):
                weight[part * 48 + 47] = weight[part * 48 + 3]
                if module.bias is not None:
                    module.bias[part * 48 + 47] = module.bias[part * 48 + 3]
    before = logits_of(task)
    layers = dense_layers(task)
    layers[1] = replace(layers[1], kept_neurons=tuple(range(47)))
    unrepaired = make_task(name)
    unrepaired.model.load_state_dict(task.model.state_dict())
    prune_in_place(unrepaired, layers, NoRepair())
    prune_in_place(task, layers, EXACT)
    loss = (logits_of(task) - before).abs().max()
    assert loss < 1e-3
    assert loss < 0.2 * (logits_of(unrepaired) - before).abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_repair_brings_the_pruned_model_nearer_to_the_dense_one(name: str) -> None:
    distances = []
    for repair in (NoRepair(), LeastSquares()):
        task = make_task(name, num_batches=8)
        before = logits_of(task)
        prune_in_place(task, without_last_units(task), repair)
        distances.append(float((logits_of(task) - before).norm()))
    assert distances[1] < 0.95 * distances[0]


@pytest.mark.parametrize("damping", [1.0, 10.0])
def test_least_squares_solves_the_normal_equations(damping: float) -> None:
    """One attention of one block, by an orthogonal solver on rows in float64.

    Ridge regression towards the dense weights is plain least squares with one more row per input
    channel. The damping keeps the condition number low: sums of float32 products, whose rounding
    depends on the processor, move the solution by less than the tolerance.
    """
    task = make_task("bert", num_batches=4)
    site = task.sites[SubBlock(0, "attention")]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = site.output.register_forward_hook(
        lambda _, args, output: seen.append((args[0].flatten(0, 1), output.flatten(0, 1)))
    )
    logits_of(task)
    handle.remove()
    prior = site.output.weight[:, 8:].detach().double().T.clone()
    inputs, targets = (torch.cat(parts).double() for parts in zip(*seen, strict=True))
    kept = inputs[:, 8:]  # without the first head
    x, y = kept - kept.mean(dim=0), targets - targets.mean(dim=0)
    strength = damping * x.square().sum(dim=0).mean()
    rows = torch.cat([x, strength.sqrt() * torch.eye(24, dtype=torch.double)])
    assert torch.linalg.cond(rows) < 10
    weight = torch.linalg.lstsq(rows, torch.cat([y, strength.sqrt() * prior])).solution
    bias = targets.mean(dim=0) - kept.mean(dim=0) @ weight
    layers = dense_layers(task)
    layers[0] = replace(layers[0], kept_heads=(1, 2, 3))
    prune_in_place(task, layers, LeastSquares(damping=damping))
    found = site.output.weight[:, 8:].detach().T.double()
    torch.testing.assert_close(found, weight, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(site.output.bias.double(), bias, atol=2e-5, rtol=1e-4)
    assert float((found - prior).abs().max()) > 1e-3  # it is not the prior
    assert not site.output.weight[:, :8].any()


def test_a_mean_shift_keeps_the_weights_and_the_mean_output() -> None:
    task = make_task("bert")
    site = task.sites[SubBlock(0, "mlp")]
    weight = site.output.weight.detach().clone()
    outputs: list[torch.Tensor] = []
    handle = site.output.register_forward_hook(lambda _, __, out: outputs.append(out.flatten(0, 1)))
    logits_of(task)
    layers = dense_layers(task)
    layers[0] = replace(layers[0], kept_neurons=tuple(range(24)))
    dense_mean = torch.cat(outputs).mean(0)
    prune_in_place(task, layers, MeanShift())
    outputs.clear()
    logits_of(task)
    handle.remove()
    torch.testing.assert_close(torch.cat(outputs).mean(0), dense_mean)
    torch.testing.assert_close(site.output.weight[:, :24], weight[:, :24])
    assert not site.output.weight[:, 24:].any()


def test_a_mean_shift_needs_biases() -> None:
    task = make_task("llama")
    with pytest.raises(NirvanaError, match=r"needs a bias .*, 0\.attention has none"):
        prune_in_place(task, dense_layers(task), MeanShift())


STYLES = {
    "bert": "normed_after",
    "distilbert": "normed_after",
    "bart": "normed_after",
    "opt-post-norm": "normed_after",
    "opt": "added",
    "llama": "added",
    "gpt_neox": "added",
    "gpt_neox-serial": "added",
    "falcon-grouped": "added",
    "t5": "added",
    "modernbert": "added",
    "gemma2": "other",
}


@pytest.mark.parametrize("name", STYLES)
def test_the_residual_style_is_found(name: str) -> None:
    task = make_task(name)
    styles = prune_in_place(task, without_last_units(task), LeastSquares())
    assert set(styles.values()) == {STYLES[name]}
