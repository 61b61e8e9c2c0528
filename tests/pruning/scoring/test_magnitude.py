from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from pruning.scoring.unit_weights import Magnitude
from tests.pruning.oneshot.tiny_tasks import make_task
from tests.pruning.scoring.unit_oracle import FAMILIES, plan_without, some_units


def weigh(model: PreTrainedModel, power: int) -> torch.Tensor:
    return sum(
        weight.double().abs().pow(power).sum()
        for name, weight in model.state_dict().items()
        if not name.endswith(".bias")
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_norm_is_what_the_model_loses(name: str) -> None:
    task = make_task(name)
    l1, l2 = Magnitude("l1").score(task), Magnitude().score(task)
    for sub_block, unit in some_units(task.model):
        smaller = repack(task.model, plan_without(task.model, sub_block, unit))
        lost = weigh(task.model, 1) - weigh(smaller, 1)
        torch.testing.assert_close(l1[sub_block][unit].double(), lost, rtol=1e-5, atol=1e-5)
        lost = (weigh(task.model, 2) - weigh(smaller, 2)).sqrt()
        torch.testing.assert_close(l2[sub_block][unit].double(), lost, rtol=1e-5, atol=1e-5)


def test_needs_no_batches() -> None:
    assert Magnitude().score(make_task("bert", num_batches=0))


def test_refuses_an_unknown_norm() -> None:
    with pytest.raises(NirvanaError, match=r"norm is 'l3'\. Expected 'l1' or 'l2'"):
        Magnitude("l3")  # type: ignore[arg-type]
