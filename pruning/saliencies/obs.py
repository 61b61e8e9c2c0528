"""Optimal brain surgeon on output projections (ZipLM; METHODS section 2): the default saliency.

The outputs of a sub-block are its output projection times its inputs. Removing the unit S and
repairing the rest by least squares costs `rho_S = tr(W_S (H^-1_SS)^-1 W_S^T)`, with H the inputs'
second moments. Units go one after the other, cheapest first, and each is repaired before the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning.activations.block_walk import BlockWalk
from pruning.activations.gram import Gram
from pruning.activations.watch import watch
from pruning.saliencies.saliency import Scores, ScoringTask
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
    """Return each unit's place in the order of removal, [U] in float32."""
    num_units = len(moments_CC) // unit_width
    at_once = max(1, -(-num_units // num_steps))
    weight = weight_OC.to(moments_CC.dtype).clone()
    strength = damping * moments_CC.diagonal().mean().clamp(min=1e-12)
    damped = moments_CC + strength * torch.eye(len(moments_CC), device=moments_CC.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    left = torch.arange(num_units, device=moments_CC.device)
    places = torch.zeros(num_units, device=moments_CC.device)
    for start in range(0, num_units, at_once):
        order = _price_removals(weight, inverse, unit_width).argsort()
        gone, stay = order[:at_once], order[at_once:].sort().values
        places[left[gone]] = torch.arange(start, start + len(gone), device=places.device).float()
        weight, inverse = _remove(
            weight, inverse, _spread(gone, unit_width), _spread(stay, unit_width)
        )
        left = left[stay]
    return places


def _price_removals(
    weight_OC: torch.Tensor, inverse_CC: torch.Tensor, unit_width: int
) -> torch.Tensor:
    """Return rho of each unit that is left, [N]."""
    if unit_width == 1:
        return weight_OC.square().sum(dim=0) / inverse_CC.diagonal()
    num_left = len(inverse_CC) // unit_width
    blocks = inverse_CC.view(num_left, unit_width, num_left, unit_width)
    own_NWW = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    columns_NWO = weight_OC.T.reshape(num_left, unit_width, -1)
    return (columns_NWO * torch.linalg.solve(own_NWW, columns_NWO)).sum(dim=(1, 2))


def _remove(
    weight_OC: torch.Tensor, inverse_CC: torch.Tensor, gone: torch.Tensor, stay: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove the channels `gone`, with the update of what stays."""
    own, beside = inverse_CC[gone][:, gone], inverse_CC[gone][:, stay]
    spread = torch.linalg.solve(own, beside)
    weight = weight_OC[:, stay] - weight_OC[:, gone] @ spread
    return weight, inverse_CC[stay][:, stay] - beside.T @ spread


def _spread(units: torch.Tensor, width: int) -> torch.Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
