from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from pruning.errors import NirvanaError
from pruning.scoring.fisher import Fisher
from pruning.scoring.saliency import ScoringTask
from pruning.wirings.sites import Site
from tests.pruning.oneshot.tiny_tasks import FAMILIES, make_task


def square_slopes(task: ScoringTask, site: Site) -> torch.Tensor:
    """The same with masks on the columns of the weight, one sub-block at a time."""
    name = next(n for n, w in task.model.named_parameters() if w is site.output.weight)
    weight = site.output.weight.detach()
    total = torch.zeros(site.num_units)
    for batch in task.batches:
        mask = torch.ones(site.num_units, requires_grad=True)
        columns = mask[:, None].expand(-1, site.unit_width).flatten()
        masked = weight * (columns[:, None] if site.transposed else columns)
        inputs = {**batch, "use_cache": False}
        loss = functional_call(task.model, {name: masked}, kwargs=inputs).loss
        total += torch.autograd.grad(loss, mask)[0] ** 2
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_is_the_squared_slope_in_a_mask(name: str) -> None:
    task = make_task(name)
    scores = Fisher().score(task)
    assert set(scores) == set(task.sites)
    for sub_block, site in task.sites.items():
        torch.testing.assert_close(
            scores[sub_block], square_slopes(task, site), rtol=1e-4, atol=1e-9
        )


def test_batches_are_squared_each_on_its_own() -> None:
    task = make_task("llama")
    parts = [Fisher().score(ScoringTask(task.model, task.sites, [b])) for b in task.batches]
    whole = Fisher().score(task)
    assert all(torch.equal(whole[s], parts[0][s] + parts[1][s]) for s in whole)


def test_leaves_no_hooks() -> None:
    task = make_task("bert")
    Fisher().score(task)
    assert not any(site.output._forward_pre_hooks for site in task.sites.values())


def test_refuses_no_batches() -> None:
    with pytest.raises(NirvanaError, match="got no calibration batches"):
        Fisher().score(make_task("bert", num_batches=0))
