"""Removes units from a loaded model, and lets what stays stand in for what goes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import LeastSquares, MeanShift, NoRepair, Repair
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import Part, kept_units
from pruning.progress import CountProgress
from pruning.scoring.block_walk import BlockWalk
from pruning.scoring.saliency import ScoringTask
from pruning.scoring.watch import Gram, Seen, flatten, watch
from pruning.wirings.sites import Site

# T tokens, O hidden size.

ResidualStyle = Literal["added", "normed_after", "other"]
_TOLERANCE = 1e-3


def find_style(
    sites: Sequence[Site], seen: Seen, entered_TO: torch.Tensor, left_TO: torch.Tensor
) -> ResidualStyle:
    """Tell how one block works, from one run of it.

    "added": it returns what entered plus the sub-blocks' outputs (pre-norm, also in parallel).
    "normed_after": it returns a norm of the last sub-block's entry plus its output (post-norm).
    "other": neither, as with norms inside the branches; residuals are then not corrected.
    """
    total = entered_TO + sum(seen.outputs.values())
    if _is_close(total, left_TO):
        return "added"
    last: Part = sites[-1].sub_block.part
    summed = seen.entries[last] + seen.outputs[last]
    return "normed_after" if _is_norm_of(left_TO, summed) else "other"


def residual_before(
    style: ResidualStyle, part: Part, seen: Seen, entered_TO: torch.Tensor
) -> torch.Tensor:
    """Return the residual stream that a sub-block's output is added to, [T, O]."""
    if style == "normed_after":
        return seen.entries[part]
    before = list(seen.outputs)[: list(seen.outputs).index(part)]
    return entered_TO + sum(seen.outputs[earlier] for earlier in before)


def _is_close(came: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((came - expected).norm() <= _TOLERANCE * expected.norm())


def _is_norm_of(normed_TO: torch.Tensor, x_TO: torch.Tensor) -> bool:
    """Return whether each channel of `normed_TO` is a scaled, shifted channel of x standardised."""
    standard = (x_TO - x_TO.mean(-1, keepdim=True)) / x_TO.std(-1, keepdim=True)
    ours, theirs = standard - standard.mean(0), normed_TO - normed_TO.mean(0)
    scale = (ours * theirs).sum(0) / ours.square().sum(0).clamp(min=1e-12)
    return _is_close(ours * scale, theirs)


# T tokens, C channels of an output projection's input, O hidden size.


@dataclass(slots=True)
class _Weights:
    """The output projections of one block, dense and pruned, to put in turns into the model."""

    sites: Sequence[Site]
    dense: dict[Part, tuple[torch.Tensor, torch.Tensor | None]]
    pruned: dict[Part, tuple[torch.Tensor, torch.Tensor | None]]

    def put(self, which: dict[Part, tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        for site in self.sites:
            weight, bias = which[site.sub_block.part]
            site.output_weight().copy_(weight)
            if bias is not None:
                site.output.bias.copy_(bias)  # type: ignore[operator]


@torch.no_grad()
def prune_in_place(
    task: ScoringTask,
    layers: Sequence[LayerPlan],
    repair: Repair,
    *,
    progress: CountProgress | None = None,
) -> dict[int, ResidualStyle]:
    """Zero what `layers` do not keep, and repair what they keep, in place.

    Removed units have zero columns afterwards: `repack` with the same layers cuts them away.
    Blocks are walked in order with the dense hidden states h and the pruned ones h'. For
    `LeastSquares` the kept inputs X of each output projection, computed from h', are fitted to
    `W0 x_dense(h) + (h - h')`; for `MeanShift` the bias becomes `b0 + W_removed E[x_removed]`.

    Args:
        progress: gets the blocks done, and of all.

    Returns:
        how each block adds to its residual stream; "other": its residual was not corrected.

    Raises:
        NirvanaError: `MeanShift` for a model whose output projections have no bias.
    """
    if isinstance(repair, MeanShift):
        _require_biases(task)
    dense_walk = BlockWalk(task.model, task.sites, task.batches)
    pruned_walk = BlockWalk(task.model, task.sites, task.batches)
    starts = [*dense_walk.stack_starts, len(dense_walk.blocks)]
    # All stacks' dense arguments are recorded before any weight changes.
    dense_inputs = {start: dense_walk.record(start) for start in starts[:-1]}
    styles: dict[int, ResidualStyle] = {}
    for start, end in itertools.pairwise(starts):
        dense, pruned = dense_inputs.pop(start), pruned_walk.record(start)
        for layer in range(start, end):
            walker = _BlockRepair(dense_walk, pruned_walk, layer, repair)
            dense, pruned = walker.repair(layers[layer], dense, pruned)
            styles[layer] = walker.style
            if progress is not None:
                progress(layer + 1, len(dense_walk.blocks))
    return styles


class _BlockRepair:
    """Repairs one block, sub-block by sub-block in the order in which it runs them."""

    def __init__(
        self,
        dense_walk: BlockWalk,
        pruned_walk: BlockWalk,
        layer: int,
        repair: Repair,
    ) -> None:
        self.dense_walk, self.pruned_walk = dense_walk, pruned_walk
        self.layer = layer
        self.repair_kind = repair
        self.corrects_residual = isinstance(repair, LeastSquares) and repair.corrects_residual
        self.sites = dense_walk.sites_of(layer)
        self.style: ResidualStyle = "other"
        dense = {site.sub_block.part: _copy_output(site) for site in self.sites}
        self.weights = _Weights(self.sites, dense, dict(dense))

    def repair(
        self, plan: LayerPlan, dense: list[torch.Tensor], pruned: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the dense and the pruned hidden states behind the block."""
        with watch(self.sites) as seen:
            left = self.dense_walk.run_block(self.layer, 0, dense[0])
        self.style = find_style(self.sites, seen, flatten(dense[0]), flatten(left))
        following = _step(self.dense_walk, self.layer, dense)
        for site in self.sites:
            part = site.sub_block.part
            units = kept_units(plan, part, site.dims)
            self.weights.pruned[part] = self._fit(site, units, dense, pruned)
            self.weights.put(self.weights.pruned)
        return following, _step(self.pruned_walk, self.layer, pruned)

    def _fit(
        self,
        site: Site,
        units: tuple[int, ...] | None,
        dense: Sequence[torch.Tensor],
        pruned: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight [O, C] and the bias [O] of a pruned output projection."""
        before, bias = self.weights.dense[site.sub_block.part]
        if units is None:
            return torch.zeros_like(before), None if bias is None else torch.zeros_like(bias)
        kept = site.channels(torch.tensor(units, device=before.device, dtype=torch.long))
        weight = torch.zeros_like(before)
        weight[:, kept] = before[:, kept]
        if isinstance(self.repair_kind, NoRepair):
            return weight, bias
        gram = self._collect(site, dense, pruned)
        if isinstance(self.repair_kind, MeanShift):
            assert bias is not None
            mean = (gram.sums_C / gram.num_tokens).to(before.dtype)
            return weight, bias + (before - weight) @ mean
        damping = self.repair_kind.damping
        fitted, shift = gram.fit(kept, before, centred=bias is not None, damping=damping)
        weight[:, kept] = fitted.to(before.dtype)
        return weight, None if bias is None else shift.to(bias.dtype)

    def _collect(
        self, site: Site, dense: Sequence[torch.Tensor], pruned: Sequence[torch.Tensor]
    ) -> Gram:
        part = site.sub_block.part
        gram = Gram(site.num_units * site.unit_width, dense[0].device, len(site.output_weight()))
        for batch in range(len(dense)):
            self.weights.put(self.weights.dense)
            before = self._look(self.dense_walk, batch, dense[batch])
            self.weights.put(self.weights.pruned)
            now = self._look(self.pruned_walk, batch, pruned[batch])
            target = before.outputs[part]
            if isinstance(self.repair_kind, MeanShift):
                gram.add(before.inputs[part], target)
                continue
            if self.corrects_residual and self.style != "other":
                target = (
                    target
                    + residual_before(self.style, part, before, flatten(dense[batch]))
                    - residual_before(self.style, part, now, flatten(pruned[batch]))
                )
            gram.add(now.inputs[part], target)
        return gram

    def _look(self, walk: BlockWalk, batch: int, hidden_BSD: torch.Tensor) -> Seen:
        with watch(self.sites) as seen:
            walk.run_block(self.layer, batch, hidden_BSD)
        return seen


def _require_biases(task: ScoringTask) -> None:
    for site in task.sites.values():
        if getattr(site.output, "bias", None) is None:
            raise NirvanaError(
                f"A mean shift needs a bias in every output projection, {site.sub_block.name} has "
                "none. Repair by least squares instead."
            )


def _step(walk: BlockWalk, layer: int, hidden: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [walk.step(layer, batch, states) for batch, states in enumerate(hidden)]


def _copy_output(site: Site) -> tuple[torch.Tensor, torch.Tensor | None]:
    bias = getattr(site.output, "bias", None)
    copied = None if bias is None else bias.detach().clone()
    return site.output_weight().detach().clone(), copied
