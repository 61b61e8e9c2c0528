"""Magnitude: the norm of a unit's weights. It looks at no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from pruning.errors import NirvanaError
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.unit_weights import sum_over_units

Norm = Literal["l1", "l2"]


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Score a unit by the L1 or L2 norm of all its weights together."""

    norm: Norm = "l2"

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            known = " or ".join(repr(norm) for norm in get_args(Norm))
            raise NirvanaError(f"Magnitude: norm is {self.norm!r}. Expected {known}.")

    @torch.no_grad()
    def score(self, task: ScoringTask) -> Scores:
        """Return norms; calibration batches are not looked at."""
        if self.norm == "l1":
            return {s: sum_over_units(site, _absolute) for s, site in task.sites.items()}
        return {s: sum_over_units(site, _square).sqrt() for s, site in task.sites.items()}


def _absolute(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().abs()


def _square(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().square()
