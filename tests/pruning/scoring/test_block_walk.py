from __future__ import annotations

import pytest
import torch

from pruning.cutting.wiring_inference import read_model
from pruning.scoring.block_walk import BlockWalk
from pruning.wirings.sites import find_sites
from tests.pruning.tiny_models import TINY, batch_for, make_tiny


def make_walk(name: str) -> tuple[BlockWalk, list[torch.Tensor]]:
    model = make_tiny(name)
    batches = [batch_for(model, "right"), batch_for(model, "left")]
    walk = BlockWalk(model, find_sites(model, read_model(model)), batches)
    with torch.no_grad():
        return walk, [model(**batch).logits for batch in batches]


@pytest.mark.parametrize("name", TINY)
def test_running_from_any_block_gives_the_whole_models_output(name: str) -> None:
    walk, expected = make_walk(name)
    hidden: list[torch.Tensor] = []
    for layer in range(len(walk.blocks) + 1):
        if layer in walk.stack_starts:
            hidden = walk.record(layer)
        for batch, states in enumerate(hidden):
            output = walk.run_from(layer, batch, states)
            torch.testing.assert_close(output.logits, expected[batch])
        if layer < len(walk.blocks):
            hidden = [walk.step(layer, i, states) for i, states in enumerate(hidden)]
