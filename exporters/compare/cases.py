"""Which inputs two artifacts are compared on: shapes, padding, and the tokens themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exporters.compare.artefact import Array, Artefact, TokenFacts
from exporters.compare.compare_config import CompareConfig
from pruning.token_ids import list_usable

Padding = Literal["none", "right", "left"]

_ALL_PADDINGS: tuple[Padding, ...] = ("none", "right", "left")
# (batch, length), other than the traced shape: a single token, shorter, longer, a batch of one. The
# largest ones, which take most of the time, have one padding each.
COMPARED_SHAPES: dict[tuple[int, int], tuple[Padding, ...]] = {
    (1, 1): ("none",),
    (1, 7): _ALL_PADDINGS,
    (2, 33): _ALL_PADDINGS,
    (5, 64): ("left",),
    (8, 128): ("right",),
}
# Where nothing says how many tokens there are.
_UNKNOWN_VOCABULARY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One batch of inputs, and the decode steps after it.

    Attributes:
        corner: which corner of an optimization profile it is; "" for none.
    """

    batch: int
    length: int
    padding: Padding
    num_steps: int
    corner: str = ""

    def describe(self) -> str:
        """Name the case in messages."""
        padded = "unpadded" if self.padding == "none" else f"padded {self.padding}"
        corner = f" ({self.corner} of the profile)" if self.corner else ""
        return f"batch {self.batch}, length {self.length}, {padded}{corner}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTokens:
    """What the inputs of a case are made from.

    Attributes:
        ids: [batch, length]; padding where `live` [batch, length] is 0.
        num_types: values that token_type_ids can have.
        prompt: [batch, a few], of an encoder-decoder's decoder.
        steps: [batch, num_steps], a token for each decode step.
    """

    ids: Array
    live: Array
    prompt: Array
    steps: Array
    seed: int
    num_types: int = 2


def list_cases(artefacts: Iterable[Artefact], config: CompareConfig) -> tuple[Case, ...]:
    """Return the cases that all artifacts can run.

    Where one has an optimization profile, its corners are the cases; else fixed shapes, no longer
    than the tables of positions allow.
    """
    artefacts = tuple(artefacts)
    limits = [artefact.facts.max_length for artefact in artefacts] + [config.max_length]
    longest = min((limit for limit in limits if limit is not None), default=None)
    corners = {
        (corner, *shape): _ALL_PADDINGS if shape[1] > 1 else ("none",)
        for artefact in artefacts
        for corner, shape in artefact.corners.items()
    }
    shapes = corners or {
        ("", batch, _shorten(length, longest, config)): paddings
        for (batch, length), paddings in COMPARED_SHAPES.items()
    }
    return tuple(
        Case(batch=batch, length=length, padding=padding, num_steps=config.num_steps, corner=corner)
        for (corner, batch, length), paddings in shapes.items()
        for padding in paddings
    )


def make_tokens(case: Case, artefacts: Iterable[Artefact], config: CompareConfig) -> CaseTokens:
    """Return random tokens that all artifacts know; the same for the same case and seed.

    They come from the whole vocabulary, but for the ids that steer a model (padding, say). They
    begin rows of text where an artifact has any.

    Padded, each row has another live length, and the first is whole where there are several.
    """
    facts = [artefact.facts for artefact in artefacts]
    usable = _list_usable(facts)
    seed = config.seed + case.batch * case.length
    rng = np.random.default_rng(seed)
    shape = (case.batch, case.length)
    text = next((fact.text for fact in facts if fact.text), ())
    ids = _take_text(text, shape, rng) if text else rng.choice(usable, shape)
    live = _make_live(case)
    pad = next((fact.pad_token for fact in facts if fact.pad_token is not None), 0)
    return CaseTokens(
        ids=np.where(live == 1, ids, pad),
        live=live,
        prompt=rng.choice(usable, (case.batch, min(case.length, 5))),
        steps=rng.choice(usable, (case.batch, case.num_steps)),
        seed=seed,
        num_types=min((f.num_types for f in facts if f.num_types is not None), default=2),
    )


def _take_text(text: tuple[Array, ...], shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return the first tokens of some rows, [batch, length]; rows that are too short go round."""
    chosen = rng.integers(len(text), size=shape[0])
    return np.stack([np.resize(text[row], shape[1]) for row in chosen])


def _shorten(length: int, longest: int | None, config: CompareConfig) -> int:
    """Return the length, or what leaves room for the decode steps."""
    return length if longest is None else min(length, max(1, longest - config.num_steps))


def _list_usable(facts: list[TokenFacts]) -> Array:
    known = [fact.num_tokens for fact in facts if fact.num_tokens is not None]
    pads = {fact.pad_token for fact in facts if fact.pad_token is not None}
    avoided = pads.union(*(fact.avoided for fact in facts))
    return list_usable(min(known, default=_UNKNOWN_VOCABULARY), avoided)


def _make_live(case: Case) -> Array:
    live = np.ones((case.batch, case.length), dtype=np.int64)
    if case.padding == "none":
        return live
    for row in range(case.batch):
        gone = (row + (case.batch == 1)) * max(1, case.length // (case.batch + 1))
        live[row, max(1, case.length - gone) :] = 0
    return live if case.padding == "right" else live[:, ::-1].copy()
