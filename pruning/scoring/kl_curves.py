"""Measures how much the predictions move when one sub-block alone is pruned, level by level."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import torch

from pruning.allocation.allocation_config import Uniform, allocate
from pruning.allocation.constraints import Constraints
from pruning.allocation.levels import DamageCurve
from pruning.calibration.calibration import Calibration
from pruning.checkpoints.prunable_model import PrunableModel
from pruning.cutting.masking import masked
from pruning.cutting.output_difference import divergence, predictions_of
from pruning.cutting.repack import plan_for
from pruning.plans.cost import ParameterCost
from pruning.plans.sub_block import SubBlock
from pruning.progress import CountProgress
from pruning.scoring.block_walk import Batch, BlockWalk, prepare_inputs
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.watch import Gram, watch
from pruning.wirings.sites import Site

_BATCHES_EACH = 2  # of every draw


def pool_batches(draws: Sequence[Calibration]) -> tuple[Batch, ...]:
    """Return the batches on which all draws are judged: the first ones of each."""
    return tuple(chain.from_iterable(draw.batches[:_BATCHES_EACH] for draw in draws))


@torch.no_grad()
def measure_draw(
    task: ScoringTask,
    source: PrunableModel,
    scores: Scores,
    pool: Sequence[Batch],
    budget: float,
) -> float:
    """Return KL(dense || pruned), mean over the batches of `pool`, in nats.

    Pruned is the model under masks that keep the share `budget` of every layer's parameters by
    `scores`, without repair (NIRVANA, arXiv 2509.14230). No weight is touched. The pool holds
    batches of all draws, lest each be judged on its own text.
    """
    layers = allocate(
        Uniform(),
        source.dims,
        {sub_block: values.tolist() for sub_block, values in scores.items()},
        cost=ParameterCost(),
        budget=budget,
        constraints=Constraints(neuron_multiple=1),
    )
    plan = plan_for(task.model, layers)
    total = 0.0
    for batch in pool:
        inputs = prepare_inputs(task.model, batch)
        dense = predictions_of(task.model(**inputs))
        with masked(task.model, plan, source.wiring):
            total += divergence(dense, predictions_of(task.model(**inputs)))
    return total / len(pool)


_KEPT_LOGITS_BYTES = 128 * 2**20  # dense logits beyond this are computed again each time


@torch.no_grad()
def measure_curves(
    task: ScoringTask,
    scores: Scores,
    *,
    num_levels: int,
    damping: float,
    num_measured: int | None = None,
    progress: CountProgress | None = None,
    known: Mapping[SubBlock, DamageCurve] | None = None,
    keep: Callable[[Mapping[SubBlock, DamageCurve]], None] | None = None,
) -> dict[SubBlock, DamageCurve]:
    """Return `d[u, k] = KL(dense || dense with only u at level k, repaired)`.

    The units of a sub-block go in the order of their scores; what stays is repaired by least
    squares. The model is run from the sub-block's block on only, and left as it was.

    Args:
        num_measured: batches on which the divergence is measured; all are used for the repair.
        progress: gets the sub-blocks done, and of all.
        known: curves that were measured before; they are not measured again.
        keep: gets all curves so far after each sub-block, for another time.
    """
    walk = BlockWalk(task.model, task.sites, task.batches)
    measured = len(walk.inputs) if num_measured is None else min(num_measured, len(walk.inputs))
    last = _record_last(walk)
    dense = _DensePredictions(walk, last[:measured])
    curves: dict[SubBlock, DamageCurve] = dict(known or {})
    hidden: list[torch.Tensor] = []
    for layer in range(len(walk.blocks)):
        if layer in walk.stack_starts:
            hidden = walk.record(layer)
        sites = walk.sites_of(layer)
        grams, following = _collect(walk, layer, sites, hidden)
        for site in [site for site in sites if site.sub_block not in curves]:
            gram = grams[site.sub_block]
            weight = site.output_weight().detach().clone()
            gram.targets_OC = weight.to(gram.products_CC.dtype) @ gram.products_CC
            gram.sums_O = weight.to(gram.products_CC.dtype) @ gram.sums_C
            order = scores[site.sub_block].argsort(descending=True)
            counts = pick_levels(site.num_units, num_levels)
            damage = [
                _measure(walk, dense, layer, hidden[:measured], site, gram, order[:count], damping)
                for count in counts[:-1]
            ]
            curves[site.sub_block] = DamageCurve(tuple(counts), (*damage, 0.0))
            if keep is not None:
                keep(curves)
            if progress is not None:
                progress(len(curves), len(task.sites))
        hidden = following
    return curves


def pick_levels(num_units: int, num_levels: int) -> list[int]:
    """Return kept counts from 0 to all, `num_levels` of them or fewer, denser towards few."""
    shares = [(i / (num_levels - 1)) ** 1.5 for i in range(num_levels)]
    return sorted({round(share * num_units) for share in shares})


def _record_last(walk: BlockWalk) -> list[torch.Tensor]:
    """Return the hidden states behind the last block."""
    layer = len(walk.blocks) - 1
    return [walk.step(layer, i, states) for i, states in enumerate(walk.record(layer))]


class _DensePredictions:
    """The dense model's logits of each batch: kept where they are small, else computed again."""

    def __init__(self, walk: BlockWalk, last: Sequence[torch.Tensor]) -> None:
        self._walk = walk
        self._last = last
        self._kept: dict[int, list[torch.Tensor]] = {}
        self._size_bytes = 0

    def of(self, batch: int) -> list[torch.Tensor]:
        if batch in self._kept:
            return self._kept[batch]
        output = self._walk.run_from(len(self._walk.blocks), batch, self._last[batch])
        logits = predictions_of(output)
        size = sum(tensor.nbytes for tensor in logits)
        if self._size_bytes + size <= _KEPT_LOGITS_BYTES:
            self._kept[batch] = logits
            self._size_bytes += size
        return logits


def _collect(
    walk: BlockWalk, layer: int, sites: Sequence[Site], hidden: Sequence[torch.Tensor]
) -> tuple[Mapping[SubBlock, Gram], list[torch.Tensor]]:
    """Return the moments of each sub-block's inputs, and the hidden states behind the block."""
    grams = {
        site.sub_block: Gram(site.num_units * site.unit_width, walk.model.device) for site in sites
    }
    following = []
    for batch, states in enumerate(hidden):
        with watch(sites) as seen:
            following.append(walk.step(layer, batch, states))
        for sub_block, gram in grams.items():
            gram.add(seen.inputs[sub_block.part])
    return grams, following


def _measure(
    walk: BlockWalk,
    dense: _DensePredictions,
    layer: int,
    hidden: Sequence[torch.Tensor],
    site: Site,
    gram: Gram,
    kept: torch.Tensor,
    damping: float,
) -> float:
    total = 0.0
    with pruned_alone(site, gram, kept, damping):
        for batch, states in enumerate(hidden):
            predicted = predictions_of(walk.run_from(layer, batch, states))
            total += divergence(dense.of(batch), predicted)
    return total / len(hidden)


@contextlib.contextmanager
def pruned_alone(site: Site, gram: Gram, kept: torch.Tensor, damping: float) -> Iterator[None]:
    """Keep only some units of a sub-block, repaired, in place until the block ends."""
    weight = site.output_weight()
    before = weight.detach().clone()
    bias = getattr(site.output, "bias", None)
    bias_before = None if bias is None else bias.detach().clone()
    channels = site.channels(kept)
    fitted, shift = gram.fit(channels, before, centred=bias is not None, damping=damping)
    weight.zero_()
    weight[:, channels] = fitted.to(weight.dtype)
    if bias is not None:
        bias += shift.to(bias.dtype)
    try:
        yield
    finally:
        weight.copy_(before)
        if bias is not None:
            bias.copy_(bias_before)
