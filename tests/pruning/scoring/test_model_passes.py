from __future__ import annotations

import pytest
import torch

from pruning.scoring.model_passes import hold_gradients, read_loss
from pruning.scoring.unit_weights import list_weights
from tests.pruning.oneshot.tiny_tasks import make_task


@pytest.mark.parametrize("name", ["bert", "llama-biased-tied", "t5"])
def test_only_the_weights_of_units_get_gradients(name: str) -> None:
    task = make_task(name)
    claimed = {id(weight) for weight in list_weights(task.sites.values())}
    with hold_gradients(task, read_loss):
        held = {id(p) for p in task.model.parameters() if p.grad is not None}
    assert held == claimed
    assert all(p.grad is None for p in task.model.parameters())


def test_gradients_are_summed_over_batches() -> None:
    task = make_task("llama")
    weight = next(list_weights(task.sites.values()))
    loss = sum(task.model(**batch).loss for batch in task.batches)
    (expected,) = torch.autograd.grad(loss, weight)
    with hold_gradients(task, read_loss):
        torch.testing.assert_close(weight.grad, expected)
