"""Which weights go with which unit: rows of the inputs' projections, columns of the output's.

Biases are left out, as in the papers whose scores are sums over weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast, get_args

import torch
from torch import nn

from pruning.cutting.cuts import rows_of_units
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import StackDims
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.wirings.sites import Site
from pruning.wirings.wiring import Projection

# U units, R rows of an input projection, C channels at the output projection's input.

# From a weight to what is summed: a tensor of the weight's shape.
Measure = Callable[[nn.Parameter], torch.Tensor]


def list_weights(sites: Iterable[Site]) -> Iterator[nn.Parameter]:
    """Yield every weight of which a part goes with each unit."""
    for site in sites:
        for module in (*(module for _, module in site.inputs), site.output):
            yield cast(nn.Parameter, module.weight)


def sum_over_units(site: Site, measure: Measure) -> torch.Tensor:
    """Return the sum of `measure` over all weights of each unit, [U]."""
    output = cast(nn.Parameter, site.output.weight)
    total_U = site.sum_channels(measure(output).sum(dim=1 if site.transposed else 0))
    for projection, module in site.inputs:
        weight = cast(nn.Parameter, module.weight)
        values_R = measure(weight).sum(dim=0 if site.transposed else 1)
        owners = _list_owners(projection, site.num_units, site.dims)
        total_U.index_add_(0, torch.tensor(owners, device=values_R.device), values_R)
    return total_U


@lru_cache(maxsize=64)
def _list_owners(projection: Projection, num_units: int, dims: StackDims) -> tuple[int, ...]:
    """Return the unit that each row of a projection goes with, [R]."""
    owners = {
        row: unit for unit in range(num_units) for row in rows_of_units(projection, (unit,), dims)
    }
    return tuple(owners[row] for row in range(len(owners)))


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
