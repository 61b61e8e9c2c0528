"""How much is lost when one sub-block alone is pruned, by what it keeps. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DamageCurve:
    """The damage of keeping each number of units, nats of KL divergence in the default allocation.

    Attributes:
        kept_counts: ascending, the last is the dense count, whose damage is 0.
        damage: one a count.
    """

    kept_counts: tuple[int, ...]
    damage: tuple[float, ...]
