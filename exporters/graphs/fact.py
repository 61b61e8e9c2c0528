"""What is known of a value in a graph when its free dimensions have sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
# Larger values are not computed: shapes and indices are smaller, weights are not wanted.
MAX_ELEMENTS = 4096


@dataclass(frozen=True, slots=True)
class Fact:
    """The shape of a value, and the value itself where it is small and depends on shapes alone.

    Attributes:
        shape: None where it could not be told.
    """

    shape: tuple[int, ...] | None
    data: Array | None = None

    @classmethod
    def of(cls, data: Array) -> Fact:
        """Return what is known of an array, which is kept where it is small."""
        return cls(data.shape, data if data.size <= MAX_ELEMENTS else None)

    def same(self, other: Fact) -> bool:
        """Return whether both say the same."""
        if self.shape != other.shape or (self.data is None) != (other.data is None):
            return False
        return self.data is None or bool(np.array_equal(self.data, other.data))  # type: ignore[arg-type]


UNKNOWN = Fact(None)
