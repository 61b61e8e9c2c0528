from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pruning.cutting.output_difference import divergence
from pruning.cutting.wiring_inference import read_model
from pruning.oneshot.oneshot_config import LeastSquares
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, list_sub_blocks
from pruning.repair.repair import prune_in_place
from pruning.scoring.kl_curves import measure_curves, pick_levels
from pruning.scoring.obs import Obs
from pruning.scoring.saliency import ScoringTask
from tests.pruning.oneshot.tiny_tasks import FAMILIES, logits_of, make_task


def test_the_divergence_is_that_of_the_distributions() -> None:
    dense, pruned = torch.randn(4, 3, 7), torch.randn(4, 3, 7)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=dense),
        torch.distributions.Categorical(logits=pruned),
    ).mean()
    assert divergence([dense], [pruned]) == pytest.approx(float(expected), rel=1e-5)
    assert divergence([dense, pruned], [dense, pruned]) == pytest.approx(0, abs=1e-6)


def with_one_pruned(task: ScoringTask, sub_block: SubBlock, state: dict[str, torch.Tensor]) -> None:
    """Leave only one sub-block as it was pruned: the walk refits the blocks behind it, too."""
    output = task.sites[sub_block].output
    pruned = {key: tensor.clone() for key, tensor in output.state_dict().items()}
    task.model.load_state_dict(state)
    output.load_state_dict(pruned)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_curve_tells_what_pruning_the_sub_block_alone_does(name: str) -> None:
    """The same point by other means: the whole model, repaired by the walk over all blocks."""
    task = make_task(name)
    dense = logits_of(task)
    state = {key: tensor.clone() for key, tensor in task.model.state_dict().items()}
    scores = Obs().score(task)
    curves = measure_curves(task, scores, num_levels=4, damping=1e-2)
    assert set(curves) == set(list_sub_blocks(read_model(task.model).dims))
    for key, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    for sub_block in (SubBlock(1, "mlp"), SubBlock(len(task.sites) // 3, "mlp")):
        curve = curves[sub_block]
        count, damage = curve.kept_counts[1], curve.damage[1]
        kept = scores[sub_block].argsort(descending=True)[:count].sort().values
        layers = [LayerPlan.dense(dims) for dims in read_model(task.model).dims.layers]
        layer = replace(layers[sub_block.layer], kept_neurons=tuple(kept.tolist()))
        layers[sub_block.layer] = layer
        prune_in_place(task, layers, LeastSquares(corrects_residual=False))
        with_one_pruned(task, sub_block, state)
        moved = F.kl_div(
            logits_of(task).log_softmax(-1).flatten(0, -2),
            dense.log_softmax(-1).flatten(0, -2),
            log_target=True,
            reduction="batchmean",
        )
        assert damage == pytest.approx(float(moved), rel=1e-2, abs=1e-6)
        task.model.load_state_dict(state)
        assert curve.damage[-1] == 0


def test_levels_go_from_nothing_to_all() -> None:
    assert pick_levels(12, 100) == list(range(13))
    levels = pick_levels(1536, 9)
    assert levels[0] == 0
    assert levels[-1] == 1536
    assert len(levels) == 9
    assert levels == sorted(set(levels))


def test_fewer_measured_batches_and_progress() -> None:
    task: ScoringTask = make_task("llama", num_batches=3)
    scores = Obs().score(task)
    seen: list[tuple[int, int]] = []
    measure_curves(
        task,
        scores,
        num_levels=3,
        damping=1e-2,
        num_measured=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, len(task.sites)) for i in range(len(task.sites))]
