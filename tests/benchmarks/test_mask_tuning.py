"""Kwon's mask tuning, against a dense least-squares solution of one layer."""

import copy

import pytest
import torch

from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, make_layer
from pruning.scoring.saliency import ScoringTask
from pruning.scoring.watch import watch
from pruning.wirings.sites import Site
from tests.pruning.oneshot.tiny_tasks import make_task, task_for

FAMILIES = ("llama", "bert", "t5")


def prune_one(task: ScoringTask, keep: SubBlock) -> list[LayerPlan]:
    """Keep every second unit of one sub-block, and all of the others."""
    layers = []
    for layer in range(1 + max(s.layer for s in task.sites)):
        units = {
            s.part: range(0, site.num_units, 2 if s == keep else 1)
            for s, site in task.sites.items()
            if s.layer == layer
        }
        dims = task.sites[SubBlock(layer, "mlp")].dims
        layers.append(
            make_layer(
                dims,
                attention=units["attention"],
                mlp=units["mlp"],
                cross_attention=units.get("cross_attention"),
            )
        )
    return layers


@torch.no_grad()
def solve_directly(task: ScoringTask, site: Site) -> torch.Tensor:
    """Return the masks of the first block's MLP from its whole matrix of contributions."""
    seen_all = []
    sites = [s for s in task.sites.values() if s.sub_block.layer == site.sub_block.layer]
    for batch in task.batches:
        with watch(sites) as seen:
            task.model(**batch)
        seen_all.append(seen.inputs["mlp"])
    inputs_TC = torch.cat(seen_all).double()
    weight_OC = site.output_weight().double()
    kept = torch.arange(0, site.num_units, 2)
    contributions = torch.einsum("tc,oc->toc", inputs_TC, weight_OC).flatten(0, 1)
    wanted = contributions.sum(dim=1)
    a = contributions[:, kept]
    damped = a.T @ a + torch.eye(len(kept), dtype=a.dtype)
    return 1 + torch.linalg.solve(damped, a.T @ (wanted - a.sum(dim=1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_the_whole_least_squares_problem(family: str) -> None:
    from mask_tuning import tune_masks

    dense = make_task(family)
    mlp = SubBlock(0, "mlp")
    pruned = task_for(copy.deepcopy(dense.model))
    expected_U = solve_directly(dense, dense.sites[mlp])
    tune_masks(dense, pruned, prune_one(dense, mlp))
    before, after = dense.sites[mlp].output_weight(), pruned.sites[mlp].output_weight()
    assert not after[:, 1::2].any()
    torch.testing.assert_close(after[:, ::2], before[:, ::2] * expected_U.float())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_whole_is_left_as_it_was(family: str) -> None:
    from mask_tuning import tune_masks

    dense = make_task(family)
    pruned = task_for(copy.deepcopy(dense.model))
    tune_masks(dense, pruned, prune_one(dense, SubBlock(99, "mlp")))
    for sub_block, site in dense.sites.items():
        torch.testing.assert_close(
            pruned.sites[sub_block].output_weight(), site.output_weight(), rtol=1e-4, atol=1e-5
        )
