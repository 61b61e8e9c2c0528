"""A price for blocks from outside, such as a table of latencies, in place of a counted cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pruning.oneshot.oneshot_config import OneShotConfig
from pruning.plans.cost import CostModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """What a budget counts instead of the cost that a config names.

    Attributes:
        about: what was asked in its terms, and where the prices are from: plain data, kept with
            the plan and the figures.
    """

    cost: CostModel
    about: Mapping[str, Any] = field(default_factory=dict)


def cost_of(config: OneShotConfig, pricing: Pricing | None) -> CostModel:
    """Return what counts the cost of a budget."""
    return config.cost_model if pricing is None else pricing.cost
