from __future__ import annotations

import pytest
import torch

from pruning.scoring.unit_weights import list_weights, sum_over_units
from tests.pruning.oneshot.tiny_tasks import make_task
from tests.pruning.scoring.unit_oracle import FAMILIES, mark_unit, some_units


@pytest.mark.parametrize("name", FAMILIES)
def test_a_units_weights_are_those_that_go_with_it(name: str) -> None:
    task = make_task(name)
    for sub_block, unit in some_units(task.model):
        marks = mark_unit(task.model, sub_block, unit)
        by_id = {id(weight): n for n, weight in task.model.named_parameters()}
        site = task.sites[sub_block]
        assert {by_id[id(weight)] for weight in list_weights([site])} == set(marks)

        def measure(weight: torch.nn.Parameter) -> torch.Tensor:
            return weight.detach().double() ** 3

        expected = sum(
            (weight.detach().double() ** 3 * marks[n]).sum()
            for n, weight in task.model.named_parameters()
            if n in marks
        )
        torch.testing.assert_close(sum_over_units(site, measure)[unit], expected)
