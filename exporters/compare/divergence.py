"""The first block at which two artifacts part: both are run with what their blocks give."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from exporters.compare.artefact import Array, Artefact
from exporters.compare.case_run import Observation
from exporters.compare.difference import find_largest, max_difference
from pruning.errors import NirvanaError

# What comes through a block is smaller than what comes out at the end: residuals, norms and the
# head add to it. So a block counts as different well below the gate.
_SHARE_OF_TOLERANCE = 0.1
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDifference:
    """What one block gives, on both sides: the difference over the largest value."""

    block: int
    scaled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where two artifacts part.

    Attributes:
        graph: the graph in which it was looked for.
        first: number of the first block that differs; None where none does, or none was found.
        where: the same in words.
        blocks: every block that both sides have.
    """

    graph: str
    first: int | None
    where: str
    blocks: tuple[BlockDifference, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {**asdict(self), "blocks": [asdict(block) for block in self.blocks]}


def find_divergence(
    source: Artefact,
    candidate: Artefact,
    calls: tuple[Observation, Observation],
    tolerance: float,
) -> Divergence:
    """Run the call of each side again, and compare block by block.

    The two calls were given the same tokens; a cache or hidden states that differ already are part
    of what was found.
    """
    left, right = calls
    try:
        found = (
            source.graphs[left.graph].run_blocks(left.feeds),
            candidate.graphs[right.graph].run_blocks(right.feeds),
        )
    except NirvanaError as error:
        where = f"the first diverging layer cannot be named: {error}"
        return Divergence(graph=right.graph, first=None, where=where, blocks=())
    blocks = _compare_blocks(*found, left.live)
    first = next((b.block for b in blocks if not b.scaled <= _SHARE_OF_TOLERANCE * tolerance), None)
    return Divergence(graph=right.graph, first=first, where=_say(first, blocks), blocks=blocks)


def _compare_blocks(
    source: dict[int, Array], candidate: dict[int, Array], live: Array | None
) -> tuple[BlockDifference, ...]:
    return tuple(
        BlockDifference(
            block=number,
            scaled=max_difference(values, candidate[number], live)
            / max(_SMALLEST_SCALE, find_largest(values, live)),
        )
        for number, values in source.items()
        if number in candidate
    )


def _say(first: int | None, blocks: tuple[BlockDifference, ...]) -> str:
    if not blocks:
        return "the first diverging layer cannot be named: the two have no block in common"
    if first is None:
        return "no layer differs: it is what comes after the last one"
    return f"the first diverging layer is {first}"
