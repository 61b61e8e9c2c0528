"""Draws real text to measure the ranges of activations on: as `nirvana score` draws it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedModel

from exporters.compare.artefact import ENCODER, Array, Artefact
from exporters.compare.case_run import run_case
from exporters.compare.cases import Case, CaseTokens, list_cases, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.io_names import is_past
from exporters.precision.int8_graph import Feeds
from pruning.calibration.calibration import refuse_textless
from pruning.calibration.calibration_config import CalibrationConfig, name_source
from pruning.calibration.calibration_documents import load_documents
from pruning.calibration.calibration_rows import Row, cut_chunks, group_rows
from pruning.checkpoints.model_source import load_stock_model
from pruning.errors import NirvanaError
from pruning.tasks.position_limit import check_length

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
    return any(is_past(spec.name) for graph in graphs for spec in graph.inputs)


def _collect(
    artefact: Artefact, cases: Iterable[tuple[Case, CaseTokens]]
) -> dict[str, list[Feeds]]:
    feeds: dict[str, list[Feeds]] = {}
    for case, tokens in cases:
        for call in run_case(artefact, case, tokens):
            feeds.setdefault(call.graph, []).append(call.feeds)
    return feeds


_RANDOM = "random inputs: no text was given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What ranges are measured on.

    Attributes:
        feeds: inputs by graph.
        told: the source, and how much of it.
        held_out: other rows of the text, which a comparison can take: ranges of text say nothing of
            random tokens.
    """

    feeds: dict[str, list[Feeds]]
    told: dict[str, object]
    held_out: tuple[Array, ...] = ()


def calibrate(
    artefact: Artefact, model: PreTrainedModel, folder: Path, config: CalibrationConfig | None
) -> Calibrated:
    """Return the inputs that a graph in int8-static is calibrated on.

    Without `config` they are random, which is said.

    Raises:
        NirvanaError: a text is asked for, and there is none, too little, or no tokenizer.
    """
    if config is None:
        return Calibrated(feeds=draw_calibration(artefact), told={"source": _RANDOM})
    refuse_textless(model)
    config = name_source(config)
    rows = draw_rows(model, folder, config)
    others = draw_rows(model, folder, config, draw=1)
    told = {
        "source": config.source,
        "num_sequences": sum(len(batch.ids) for batch in rows),
        "num_tokens": sum(batch.ids.size for batch in rows),
    }
    return Calibrated(
        feeds=draw_calibration(artefact, rows),
        told=told,
        held_out=tuple(ids for batch in others for ids in batch.ids),
    )


def draw_rows(
    model: PreTrainedModel, folder: Path, config: CalibrationConfig, draw: int = 0
) -> tuple[CalibrationRows, ...]:
    """Return one draw of batches, without any padding.

    Raises:
        NirvanaError: the tokenizer or the text cannot be loaded, there is too little of it, or its
            rows are longer than the model has positions for.
    """
    config = name_source(config)
    check_length(model, config.sequence_length, "calibration.sequence_length")
    tokenizer = _load_tokenizer(folder)
    documents, luck = load_documents(config), random.Random(f"{config.seed}/{draw}")
    if model.can_generate() and not model.config.is_encoder_decoder:
        chunks = cut_chunks(documents, tokenizer, config, luck)
        size = config.batch_size
        parts = [chunks[start : start + size] for start in range(0, len(chunks), size)]
        return tuple(_make_rows(part) for part in parts)
    writes = model.can_generate()
    groups = group_rows(documents, tokenizer, config, luck, writes=writes)
    start = getattr(model.config, "decoder_start_token_id", None) or 0
    return tuple(
        _make_rows([row.input_ids for row in group], _read_targets(group, start) if writes else ())
        for group in groups
    )


def _make_rows(
    input_ids: Sequence[Sequence[int]], written: Sequence[Sequence[int]] = ()
) -> CalibrationRows:
    ids = np.array(input_ids, np.int64)
    targets = np.array(written, np.int64) if written else None
    return CalibrationRows(ids=ids, live=np.ones_like(ids), written=targets)


def _read_targets(group: Sequence[Row], start: int) -> list[list[int]]:
    return [[start, *row.target_ids] for row in group]


def _load_tokenizer(folder: Path) -> Any:
    try:
        return load_stock_model(AutoTokenizer, str(folder))
    except NirvanaError as error:
        raise NirvanaError(
            f"Calibration on text needs the model's tokenizer: {error} Save it beside the model, "
            "or leave calibration out."
        ) from error
