from __future__ import annotations

import pytest
import torch

from pruning.scoring.obs import Obs, order_removals
from tests.pruning.oneshot.tiny_tasks import FAMILIES, make_task


def reconstruct_error(x_TC: torch.Tensor, weight_OC: torch.Tensor, kept: list[int]) -> float:
    """The least squares error of giving W x from the channels `kept` only."""
    target = x_TC @ weight_OC.T
    fitted = torch.linalg.lstsq(x_TC[:, kept], target).solution if kept else None
    residual = target if fitted is None else target - x_TC[:, kept] @ fitted
    return float(residual.square().sum())


@pytest.mark.parametrize("width", [1, 3])
def test_each_removal_is_the_one_that_least_squares_regrets_least(width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=draw, dtype=torch.double)
    x_TC = torch.randn(200, 12, generator=draw, dtype=torch.double) @ mix
    weight = torch.randn(5, 12, generator=draw, dtype=torch.double)
    places = order_removals(weight, x_TC.T @ x_TC, width, damping=1e-12, num_steps=96)
    left = list(range(12 // width))
    for place in range(12 // width):
        errors = {
            unit: reconstruct_error(
                x_TC,
                weight,
                [u * width + i for u in left if u != unit for i in range(width)],
            )
            for unit in left
        }
        gone = int((places == place).nonzero())
        assert gone == min(errors, key=errors.__getitem__)
        left.remove(gone)


def test_several_at_once_are_the_cheapest() -> None:
    x_TC = torch.eye(12, dtype=torch.double)
    weight = torch.arange(12, dtype=torch.double)[None]
    places = order_removals(weight, x_TC.T @ x_TC, 1, damping=1e-9, num_steps=4)
    assert places.tolist() == list(range(12))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_unit_gets_its_place(name: str) -> None:
    task = make_task(name)
    scores = Obs().score(task)
    assert set(scores) == set(task.sites)
    for sub_block, places in scores.items():
        assert sorted(places.tolist()) == list(range(task.sites[sub_block].num_units))


def test_a_unit_that_gives_nothing_goes_first() -> None:
    task = make_task("llama")
    site = next(s for s in task.sites.values() if s.sub_block.part == "mlp")
    with torch.no_grad():
        site.output_weight()[:, 17] = 0
    assert Obs().score(task)[site.sub_block][17] == 0
