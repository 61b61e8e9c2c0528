from __future__ import annotations

import pytest
import torch

from pruning.errors import NirvanaError
from pruning.scoring.fisher import Taylor
from pruning.scoring.saliency import ScoringTask
from tests.pruning.oneshot.tiny_tasks import make_task
from tests.pruning.scoring.unit_oracle import FAMILIES, loss_with_scale, mark_unit, some_units


@pytest.mark.parametrize("name", FAMILIES)
def test_is_the_slope_of_the_loss_when_the_units_weights_shrink(name: str) -> None:
    task = make_task(name)
    scores = Taylor().score(task)
    for sub_block, unit in some_units(task.model):
        marks = mark_unit(task.model, sub_block, unit)
        scale = torch.ones((), requires_grad=True)
        loss = sum(loss_with_scale(task.model, marks, scale, **batch) for batch in task.batches)
        (slope,) = torch.autograd.grad(loss, scale)
        # Sums of products of either sign, in another order.
        torch.testing.assert_close(scores[sub_block][unit], slope.abs(), rtol=1e-4, atol=1e-6)


def test_works_where_gradients_are_off() -> None:
    task = make_task("llama")
    expected = Taylor().score(task)
    with torch.no_grad():
        found = Taylor().score(task)
    assert all(torch.equal(found[s], expected[s]) for s in expected)


def test_refuses_batches_without_labels() -> None:
    task = make_task("bert")
    bare = [{"input_ids": batch["input_ids"]} for batch in task.batches]
    with pytest.raises(NirvanaError, match=r"needs a loss, and BertFor.* of input_ids\. Add"):
        Taylor().score(ScoringTask(task.model, task.sites, bare))


def test_refuses_no_batches() -> None:
    with pytest.raises(NirvanaError, match="got no calibration batches"):
        Taylor().score(make_task("bert", num_batches=0))
