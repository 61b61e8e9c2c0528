"""Kwon et al. 2022 (arXiv 2204.09656), section 4.3: kept units are rescaled, layer after layer.

The masks m of a sub-block are fitted so that the pruned model's residual stream comes near to the
dense one's: `min |h' + sum_u m_u W_u x'_u - (h + sum_u W_u x_u)|^2`, with h' and x' of the pruned
model. Their solver damps, and masks that it takes out of [-10, 10] are discarded; so it is here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import kept_units
from pruning.repair.repair import ResidualStyle, find_style, residual_before
from pruning.scoring.block_walk import BlockWalk
from pruning.scoring.saliency import ScoringTask
from pruning.scoring.watch import Gram, Seen, flatten, watch
from pruning.wirings.sites import Site

# U kept units, C their channels, O hidden size.

_LARGEST = 10.0
_DAMPING = 1.0  # LSMR's: its square is added to the diagonal


@torch.no_grad()
def tune_masks(dense: ScoringTask, pruned: ScoringTask, layers: Sequence[LayerPlan]) -> None:
    """Zero in `pruned`, in place, what `layers` do not keep, and rescale what they keep."""
    before = BlockWalk(dense.model, dense.sites, dense.batches)
    now = BlockWalk(pruned.model, pruned.sites, pruned.batches)
    for site in pruned.sites.values():
        _zero_removed(site, layers[site.sub_block.layer])
    starts = [*before.stack_starts, len(before.blocks)]
    for start, end in itertools.pairwise(starts):
        hidden, hidden_now = before.record(start), now.record(start)
        for layer in range(start, end):
            style = _find_style(before, layer, hidden[0])
            for site in now.sites_of(layer):
                gram = _collect(site, style, (before, hidden), (now, hidden_now))
                _rescale(site, layers[layer], gram)
            hidden = [before.step(layer, i, states) for i, states in enumerate(hidden)]
            hidden_now = [now.step(layer, i, states) for i, states in enumerate(hidden_now)]


def _find_style(walk: BlockWalk, layer: int, hidden_BSO: torch.Tensor) -> ResidualStyle:
    sites = walk.sites_of(layer)
    with watch(sites) as seen:
        left = walk.run_block(layer, 0, hidden_BSO)
    return find_style(sites, seen, flatten(hidden_BSO), flatten(left))


def _collect(
    site: Site,
    style: ResidualStyle,
    before: tuple[BlockWalk, list[torch.Tensor]],
    now: tuple[BlockWalk, list[torch.Tensor]],
) -> Gram:
    """Return the moments of the pruned inputs with the outputs that are wanted, without bias."""
    part, layer = site.sub_block.part, site.sub_block.layer
    gram = Gram(
        site.num_units * site.unit_width, site.output_weight().device, site.dims.hidden_size
    )
    bias = getattr(site.output, "bias", None)
    for batch, (states, states_now) in enumerate(zip(before[1], now[1], strict=True)):
        dense, pruned = (
            _look(before[0], layer, batch, states),
            _look(now[0], layer, batch, states_now),
        )
        target = dense.outputs[part]
        if style != "other":
            target = target + residual_before(style, part, dense, flatten(states))
            target = target - residual_before(style, part, pruned, flatten(states_now))
        gram.add(pruned.inputs[part], target if bias is None else target - bias)
    return gram


def _look(walk: BlockWalk, layer: int, batch: int, hidden_BSO: torch.Tensor) -> Seen:
    with watch(walk.sites_of(layer)) as seen:
        walk.run_block(layer, batch, hidden_BSO)
    return seen


def _rescale(site: Site, layer: LayerPlan, gram: Gram) -> None:
    units = kept_units(layer, site.sub_block.part, site.dims)
    if not units:
        return
    channels = site.channels(torch.tensor(units))
    weight_OC = site.output_weight()[:, channels].to(gram.products_CC.dtype)
    count, width = len(units), site.unit_width
    products_CC = (weight_OC.T @ weight_OC) * gram.products_CC[channels][:, channels]
    normal_UU = products_CC.view(count, width, count, width).sum(dim=(1, 3))
    fitted_U = (weight_OC * gram.targets_OC[:, channels]).sum(dim=0).view(count, width).sum(dim=1)
    ones_U = torch.ones_like(fitted_U)
    damped_UU = normal_UU + _DAMPING**2 * torch.eye(count, dtype=normal_UU.dtype)
    masks_U = ones_U + torch.linalg.solve(damped_UU, fitted_U - normal_UU @ ones_U)
    if masks_U.abs().max() <= _LARGEST:
        scale_C = masks_U.repeat_interleave(width).to(site.output_weight().dtype)
        site.output_weight()[:, channels] *= scale_C


def _zero_removed(site: Site, layer: LayerPlan) -> None:
    units = kept_units(layer, site.sub_block.part, site.dims) or ()
    kept = torch.zeros(site.num_units)
    kept[list(units)] = 1
    site.output_weight().mul_(kept.repeat_interleave(site.unit_width))
