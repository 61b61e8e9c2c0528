"""What a sub-block is expected to cost where that is no sum over its units, as in latency tables.

The value is exact: each number of kept units counts with the probability that it is what stays. The
gradient is another matter. Latency has steps, and on a plateau no single unit saves anything; by
its own slope no gate would ever leave one. So gates feel the slope of the greatest convex curve
that lies below the prices: it is what a Lagrangian relaxation of the budget sees of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pruning.allocation.levels import sub_block_cost
from pruning.plans.cost import CostModel
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.sub_block import Part, SubBlock, count_units

# U units of a sub-block; K = U + 1 numbers of them that may be kept.


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPrices:
    """The price of each number of kept units [K], and the slope that gates feel there [K]."""

    prices: torch.Tensor
    slopes: torch.Tensor

    @property
    def mean_price(self) -> float:
        """What a unit costs on the average; above 0, so that scores can be compared with it."""
        num_units = len(self.prices) - 1
        return max(float(self.prices[-1] - self.prices[0]), 1.0) / num_units

    def expect(self, kept_U: torch.Tensor) -> torch.Tensor:
        """Return the expected price of units that are kept with the probabilities `kept_U`."""
        with torch.no_grad():
            chance_K = count_distribution(kept_U)
            value = (chance_K * self.prices.to(chance_K)).sum().to(kept_U)
            nearest = int(kept_U.sum().round())
        felt = float(self.slopes[nearest]) * kept_U.sum()
        return value + (felt - felt.detach())


class PriceList:
    """The prices of all sub-blocks of a model; those of equal layers are read once."""

    def __init__(self, dims: DenseDims, cost: CostModel) -> None:
        self._dims = dims
        self._cost = cost
        self._prices: dict[tuple[Part, StackDims, int | None], CountPrices] = {}

    def find(self, sub_block: SubBlock, heads: int | None = None) -> CountPrices:
        """Return the prices of a sub-block; of an attention with `heads` in each KV group."""
        key = (sub_block.part, self._dims.layers[sub_block.layer], heads)
        if key not in self._prices:
            counts = range(count_units(sub_block, self._dims) + 1)
            prices = [sub_block_cost(sub_block, n, self._dims, self._cost, heads) for n in counts]
            self._prices[key] = make_prices(prices)
        return self._prices[key]

    def expect_heads(
        self, sub_block: SubBlock, kept_U: torch.Tensor, kept_Q: torch.Tensor
    ) -> torch.Tensor:
        """Return the expected price of KV groups, kept with `kept_U`, and query heads, `kept_Q`.

        Groups are priced at the number of heads that they keep on the average; heads feel the
        mean slope between one head in each group and all.
        """
        size = len(kept_Q) // len(kept_U)
        groups = float(kept_U.detach().sum())
        mean = float(kept_Q.detach().sum()) / max(groups, 1e-6)
        value = self.find(sub_block, min(size, max(1, round(mean)))).expect(kept_U)
        number = max(1, round(groups))
        dearest, cheapest = (float(self.find(sub_block, n).prices[number]) for n in (size, 1))
        felt = (dearest - cheapest) / (number * (size - 1)) * kept_Q.sum()
        return value + (felt - felt.detach())


def make_prices(prices: list[int]) -> CountPrices:
    """Return the prices of 0, 1, ... units with their slopes."""
    price_K = np.asarray(prices, np.float64)
    return CountPrices(
        prices=torch.from_numpy(price_K),
        # Between two edges of the convex curve their mean.
        slopes=torch.from_numpy(np.gradient(find_convex_below(price_K))),
    )


def find_convex_below(price_K: np.ndarray) -> np.ndarray:
    """Return the greatest convex curve that is nowhere above the prices, at each count."""
    corners = [0]
    for count in range(1, len(price_K)):
        while len(corners) > 1 and _is_above(price_K, corners[-2], corners[-1], count):
            corners.pop()
        corners.append(count)
    below_K: np.ndarray = np.interp(np.arange(len(price_K)), corners, price_K[corners])
    return below_K


def count_distribution(kept_U: torch.Tensor) -> torch.Tensor:
    """Return the probability [K] of each number of kept units, kept independently.

    It is the product of the polynomials (1 - p) + p x, multiplied two by two.
    """
    kept = kept_U.double()
    num_units = len(kept)
    if bool(((kept == 0) | (kept == 1)).all()):
        return torch.nn.functional.one_hot(kept.sum().long(), num_units + 1).double()
    size = 1 << (num_units - 1).bit_length()
    kept = torch.cat([kept, kept.new_zeros(size - num_units)])  # never kept: factors of 1
    polynomials_PL = torch.stack([1 - kept, kept], dim=1)
    while len(polynomials_PL) > 1:
        length = 2 * polynomials_PL.shape[1] - 1
        spectra = torch.fft.rfft(polynomials_PL, n=2 * polynomials_PL.shape[1])
        product = torch.fft.irfft(spectra[::2] * spectra[1::2], n=2 * polynomials_PL.shape[1])
        polynomials_PL = product[:, :length]
    return polynomials_PL[0, : num_units + 1].clamp(min=0)


def _is_above(price_K: np.ndarray, left: int, middle: int, right: int) -> bool:
    """Return whether the middle one of three points is on or above the line between the others."""
    rise = (price_K[right] - price_K[left]) * (middle - left)
    return bool((price_K[middle] - price_K[left]) * (right - left) >= rise)
