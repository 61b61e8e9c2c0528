"""Which of an engine's optimization profiles serves given shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pruning.errors import NirvanaError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeBounds:
    """What one input may be in one profile."""

    min: Shape
    opt: Shape
    max: Shape

    def find_misfit(self, shape: Shape) -> str | None:
        """Return what is wrong with a shape in words, or None where it fits."""
        if len(shape) != len(self.min):
            return f"has {len(shape)} dimensions, expected {len(self.min)}"
        for axis, (size, low, high) in enumerate(zip(shape, self.min, self.max, strict=True)):
            if not low <= size <= high:
                wanted = f"{low}" if low == high else f"{low} to {high}"
                return f"has {size} in dimension {axis}, expected {wanted}"
        return None

    def distance(self, shape: Shape) -> float:
        """Return how far a shape is from the one that was tuned for; 0 is that one."""
        pairs = zip(shape, self.opt, strict=True)
        return sum(abs(math.log(max(size, 1) / max(tuned, 1))) for size, tuned in pairs)


Profile = Mapping[str, ShapeBounds]


def choose_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """Return the number of the profile that takes `shapes`, of several the one tuned nearest.

    Raises NirvanaError where none does, saying of each which input and dimension does not fit.
    """
    misfits = [_find_misfits(profile, shapes) for profile in profiles]
    fitting = [number for number, found in enumerate(misfits) if not found]
    if not fitting:
        reasons = "; ".join(
            f"profile {number}: {', '.join(found)}" for number, found in enumerate(misfits)
        )
        raise NirvanaError(
            f"The engine takes no such shapes. {reasons}. Keep within its optimization profiles, "
            "or build it with wider ones."
        )
    return min(fitting, key=lambda number: _find_distance(profiles[number], shapes))


def _find_misfits(profile: Profile, shapes: Mapping[str, Shape]) -> list[str]:
    found = ((name, profile[name].find_misfit(shape)) for name, shape in shapes.items())
    return [f"{name} {misfit}" for name, misfit in found if misfit is not None]


def _find_distance(profile: Profile, shapes: Mapping[str, Shape]) -> float:
    return sum(profile[name].distance(shape) for name, shape in shapes.items())
