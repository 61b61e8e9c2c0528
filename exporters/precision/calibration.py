"""Inputs on which the ranges of activations are measured: from tokens to what each graph is fed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exporters.compare.artefact import ENCODER, Array, Artefact
from exporters.compare.case_run import PAST, run_case
from exporters.compare.cases import Case, CaseTokens, list_cases, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.precision.int8_graph import Feeds

# Rows longer than this add little to a range, and much to the time.
_LONGEST = 64
# Of a decoder's row, the last tokens, which come one by one over the cache; and, of what an
# encoder-decoder writes, the first, which come at once.
_STEPS, _PROMPT = 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRows:
    """A batch of text.

    Attributes:
        ids, live: token ids and attention mask, [batch, length].
        written: what an encoder-decoder writes of it, with its start token, [batch, any].
    """

    ids: Array
    live: Array
    written: Array | None = None


def draw_calibration(
    artefact: Artefact, rows: Iterable[CalibrationRows] | None = None
) -> dict[str, list[Feeds]]:
    """Return, by graph, inputs for `convert_precision`.

    `rows` are text of the kind that the model will see, since ranges are only as good as what they
    were measured on; a decoder takes the last tokens of rows without padding one by one. Without
    them, random tokens with decode steps over the cache stand in.
    """
    if rows is None:
        return _collect(artefact, _draw_cases(artefact))
    return _collect(artefact, [_make_case(artefact, batch) for batch in rows])


def _draw_cases(artefact: Artefact) -> list[tuple[Case, CaseTokens]]:
    config = CompareConfig(max_length=_LONGEST)
    cases = list_cases([artefact], config)
    return [(case, make_tokens(case, [artefact], config)) for case in cases if case.length > 1]


def _make_case(artefact: Artefact, rows: CalibrationRows) -> tuple[Case, CaseTokens]:
    ids, live, written = rows.ids, rows.live, rows.written
    no_steps = ids[:, :0]
    prompt, steps = ids[:, :1], no_steps
    if ENCODER in artefact.graphs:
        if written is not None:
            first = min(_PROMPT, max(1, written.shape[1] - _STEPS))
            prompt, steps = written[:, :first], written[:, first : first + _STEPS]
    elif _takes_cache(artefact) and live.all() and ids.shape[1] > _STEPS:
        ids, steps = ids[:, :-_STEPS], ids[:, -_STEPS:]
        live = live[:, :-_STEPS]
    tokens = CaseTokens(ids=ids, live=live, prompt=prompt, steps=steps, seed=0)
    batch, length = ids.shape
    case = Case(batch=batch, length=length, padding="none", num_steps=steps.shape[1])
    return case, tokens


def _takes_cache(artefact: Artefact) -> bool:
    graphs = artefact.graphs.values()
    return any(spec.name.startswith(PAST) for graph in graphs for spec in graph.inputs)


def _collect(
    artefact: Artefact, cases: Iterable[tuple[Case, CaseTokens]]
) -> dict[str, list[Feeds]]:
    feeds: dict[str, list[Feeds]] = {}
    for case, tokens in cases:
        for call in run_case(artefact, case, tokens):
            feeds.setdefault(call.graph, []).append(call.feeds)
    return feeds
