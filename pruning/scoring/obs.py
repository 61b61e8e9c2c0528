"""Optimal brain surgeon on output projections (ZipLM, arXiv 2302.04089): the default saliency.

The outputs of a sub-block are its output projection times its inputs. Removing the unit S and
repairing the rest by least squares costs `rho_S = tr(W_S (H^-1_SS)^-1 W_S^T)`, with H the inputs'
second moments. Units go one after the other, cheapest first, and each is repaired before the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning.scoring.block_walk import BlockWalk
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.watch import Gram, watch
from pruning.wirings.sites import Site

# C channels, O outputs, U units, W channels of one unit, N units left.


@dataclass(frozen=True, slots=True, kw_only=True)
class Obs:
    """Score a unit by when it is removed: the first gets 0, the last the highest score.

    Attributes:
        damping: added to the diagonal of H, as a part of its mean.
        num_steps: a sub-block of more units loses several at once.
    """

    damping: float = 1e-2
    num_steps: int = 96

    @torch.no_grad()
    def score(self, task: ScoringTask) -> Scores:
        """Return the place in the order of removal; one block's moments are held at a time."""
        walk = BlockWalk(task.model, task.sites, task.batches)
        scores: Scores = {}
        hidden: list[torch.Tensor] = []
        for layer in range(len(walk.blocks)):
            if layer in walk.stack_starts:
                hidden = walk.record(layer)
            sites = walk.sites_of(layer)
            grams = {
                s.sub_block.part: Gram(s.num_units * s.unit_width, task.model.device) for s in sites
            }
            for batch, states in enumerate(hidden):
                with watch(sites) as seen:
                    hidden[batch] = walk.step(layer, batch, states)
                for part, gram in grams.items():
                    gram.add(seen.inputs[part])
            for site in sites:
                scores[site.sub_block] = self._order(site, grams[site.sub_block.part])
        return scores

    def _order(self, site: Site, gram: Gram) -> torch.Tensor:
        return order_removals(
            site.output_weight(), gram.products_CC, site.unit_width, self.damping, self.num_steps
        )


def order_removals(
    weight_OC: torch.Tensor,
    moments_CC: torch.Tensor,
    unit_width: int,
    damping: float,
    num_steps: int,
) -> torch.Tensor:
    """Return each unit's place in the order of removal, [U] in float32.

    Removed channels are carried along, as zeros, until they are a quarter: copies cost more.
    """
    num_units = len(moments_CC) // unit_width
    at_once = max(1, -(-num_units // num_steps))
    weight = weight_OC.to(moments_CC.dtype).clone()
    inverse = _invert(moments_CC, damping)
    units = torch.arange(num_units, device=moments_CC.device)  # those that are carried along
    is_left = torch.ones_like(units, dtype=torch.bool)
    places = torch.zeros(num_units, device=moments_CC.device)
    for start in range(0, num_units, at_once):
        left = is_left.nonzero().flatten()
        order = _price_removals(weight, inverse, unit_width, left).argsort()
        gone = left[order[:at_once]]
        places[units[gone]] = torch.arange(start, start + len(gone), device=places.device).float()
        _remove(weight, inverse, _spread(gone, unit_width))
        is_left[gone] = False
        if is_left.sum() <= 0.75 * len(units):
            stay = is_left.nonzero().flatten()
            channels = _spread(stay, unit_width)
            weight, inverse = weight[:, channels], inverse[channels][:, channels]
            units, is_left = units[stay], is_left[stay]
    return places


def _invert(moments_CC: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the inverse of the damped moments, with no more copies than it needs."""
    damped = moments_CC.clone()
    damped.diagonal().add_(damping * moments_CC.diagonal().mean().clamp(min=1e-12))
    factor = torch.linalg.cholesky(damped)
    del damped
    return torch.cholesky_inverse(factor)


def _price_removals(
    weight_OC: torch.Tensor, inverse_CC: torch.Tensor, unit_width: int, left: torch.Tensor
) -> torch.Tensor:
    """Return rho of each unit that is left, [N]."""
    if unit_width == 1:
        return weight_OC[:, left].square().sum(dim=0) / inverse_CC.diagonal()[left]
    num_units = len(inverse_CC) // unit_width
    blocks = inverse_CC.view(num_units, unit_width, num_units, unit_width)
    own_NWW = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)[left]
    columns_NWO = weight_OC.T.reshape(num_units, unit_width, -1)[left]
    losses_N: torch.Tensor = (columns_NWO * torch.linalg.solve(own_NWW, columns_NWO)).sum(
        dim=(1, 2)
    )
    return losses_N


def _remove(weight_OC: torch.Tensor, inverse_CC: torch.Tensor, gone: torch.Tensor) -> None:
    """Remove the channels `gone`, with the update of what stays, in place: they become zeros."""
    beside = inverse_CC[gone]
    spread = torch.linalg.solve(beside[:, gone], beside)
    weight_OC.sub_(weight_OC[:, gone] @ spread)
    inverse_CC.addmm_(beside.T, spread, alpha=-1)


def _spread(units: torch.Tensor, width: int) -> torch.Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
