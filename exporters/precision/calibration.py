"""Inputs on which the ranges of activations are measured: from tokens to what each graph is fed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from exporters.compare.artefact import Array, Artefact
from exporters.compare.case_run import run_case
from exporters.compare.cases import Case, CaseTokens, list_cases, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.precision.int8_graph import Feeds

# Rows longer than this add little to a range, and much to the time.
_LONGEST = 64


def draw_calibration(
    artefact: Artefact, rows: Iterable[tuple[Array, Array]] | None = None
) -> dict[str, list[Feeds]]:
    """Return, by graph, inputs for `convert_precision`.

    `rows` are batches of token ids and attention masks, [batch, length] each: text of the kind that
    the model will see, since ranges are only as good as what they were measured on. Without them,
    random tokens with decode steps over the cache stand in.
    """
    if rows is None:
        return _collect(artefact, _draw_cases(artefact))
    return _collect(artefact, [_make_case(ids, live) for ids, live in rows])


def _draw_cases(artefact: Artefact) -> list[tuple[Case, CaseTokens]]:
    config = CompareConfig(max_length=_LONGEST)
    cases = list_cases([artefact], config)
    return [(case, make_tokens(case, [artefact], config)) for case in cases if case.length > 1]


def _make_case(ids: Array, live: Array) -> tuple[Case, CaseTokens]:
    batch, length = ids.shape
    tokens = CaseTokens(
        ids=ids, live=live, prompt=ids[:, :1], steps=np.zeros((batch, 0), np.int64), seed=0
    )
    return Case(batch=batch, length=length, padding="none", num_steps=0), tokens


def _collect(
    artefact: Artefact, cases: Iterable[tuple[Case, CaseTokens]]
) -> dict[str, list[Feeds]]:
    feeds: dict[str, list[Feeds]] = {}
    for case, tokens in cases:
        for call in run_case(artefact, case, tokens):
            feeds.setdefault(call.graph, []).append(call.feeds)
    return feeds
