"""Draws real text to measure the ranges of activations on: as `nirvana score` draws it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedModel

from exporters.compare.artefact import Array, Artefact
from exporters.precision.calibration import CalibrationRows, draw_calibration
from exporters.precision.int8_graph import Feeds
from pruning.checkpoints.model_source import load_stock_model
from pruning.errors import NirvanaError
from pruning.oneshot.calibration import refuse_textless
from pruning.oneshot.calibration_config import CalibrationConfig, name_source
from pruning.oneshot.calibration_documents import load_documents
from pruning.oneshot.calibration_rows import Row, cut_chunks, group_rows
from pruning.training.position_limit import check_length

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
    told: dict[str, Any]
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
