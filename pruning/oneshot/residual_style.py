"""Finds out how a block adds its sub-blocks to the residual stream, by looking at it run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from pruning.activations.watch import Seen
from pruning.plans.sub_block import Part
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
