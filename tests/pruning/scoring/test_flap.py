from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.errors import NirvanaError
from pruning.scoring.flap import ChannelVariance, Flap
from pruning.scoring.saliency import ScoringTask
from tests.pruning.oneshot.tiny_tasks import FAMILIES, make_task


def capture(task: ScoringTask) -> dict:
    """All that enters the output projections, [tokens, channels]."""
    seen = {sub_block: [] for sub_block in task.sites}
    handles = [
        site.output.register_forward_pre_hook(
            lambda _, args, found=seen[s]: found.append(args[0].reshape(-1, args[0].shape[-1]))
        )
        for s, site in task.sites.items()
    ]
    with torch.no_grad():
        for batch in task.batches:
            task.model(**batch)
    for handle in handles:
        handle.remove()
    return {s: torch.cat(found).double().numpy() for s, found in seen.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_is_the_standardised_fluctuation(name: str) -> None:
    task = make_task(name)
    last = {key: value[:2] for key, value in task.batches[1].items()}
    task = ScoringTask(task.model, task.sites, [task.batches[0], last])
    scores, inputs = Flap().score(task), capture(task)
    for sub_block, site in task.sites.items():
        weight = site.output.weight.detach().double().numpy()
        weight = weight.T if site.transposed else weight
        channels = inputs[sub_block].var(axis=0) * (weight**2).sum(axis=0)
        channels = (channels - channels.mean()) / channels.std()
        expected = channels.reshape(site.num_units, site.unit_width).mean(axis=1)
        np.testing.assert_allclose(scores[sub_block].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_variance_of_many_chunks_is_exact_far_from_zero() -> None:
    tokens = 1e6 + torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)).double()
    variance = ChannelVariance(3, torch.device("cpu"))
    for part in tokens.split((1, 2999, 2000)):
        variance.add(part)
    np.testing.assert_allclose(variance.read().numpy(), tokens.numpy().var(axis=0), rtol=1e-9)


def test_channels_that_fluctuate_alike_are_worth_the_same() -> None:
    task = make_task("llama")
    for site in task.sites.values():
        site.output.weight.data.zero_()
    assert all((score == 0).all() for score in Flap().score(task).values())


def test_leaves_no_hooks() -> None:
    task = make_task("bert")
    Flap().score(task)
    assert not any(site.output._forward_pre_hooks for site in task.sites.values())


def test_refuses_no_batches() -> None:
    with pytest.raises(NirvanaError, match="got no calibration batches"):
        Flap().score(make_task("bert", num_batches=0))
