"""Runs one case on an artifact: one graph, or a prompt and decode steps over its own cache.

The tokens are given, and the same for all artifacts; what a graph computed (hidden states, cache)
goes on within the artifact. So a layout with one decoder graph compares with one of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from exporters.compare.artefact import (
    DECODER,
    DECODER_WITH_PAST,
    ENCODER,
    MODEL,
    Array,
    Artefact,
    ComparedGraph,
)
from exporters.compare.cases import Case, CaseTokens
from exporters.io_names import PAST_PREFIX, PRESENT_PREFIX, is_past, to_past
from exporters.trace.graph_part import GraphTensor
from pruning.errors import NirvanaError

_HIDDEN, _HIDDEN_INPUT = "last_hidden_state", "encoder_hidden_states"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one call of one graph gave.

    Attributes:
        what: `outputs`, `encoder`, `prompt`, `step 1`, ...
        feeds: what the graph was given.
        outputs: without the cache.
        cache: the cache's tensors [batch, heads, total_sequence, width], which are compared where
            both sides lay them out alike.
        live: [batch, sequence] of this call, 1 at tokens; None: all.
        cache_live: [batch, total_sequence], the same for the cache of self-attention.
        encoder_live: [batch, encoder_sequence], the same for that of cross-attention.
    """

    what: str
    graph: str
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]
    live: Array | None
    cache: Mapping[str, Array] = field(default_factory=dict)
    cache_live: Array | None = None
    encoder_live: Array | None = None


def run_case(artefact: Artefact, case: Case, tokens: CaseTokens) -> tuple[Observation, ...]:
    """Return what the artifact gives for a case, call by call.

    Raises:
        NirvanaError: a graph is missing, has an input that is not known, or cannot run the case.
    """
    try:
        return tuple(_run(_CaseRun(artefact=artefact, case=case, tokens=tokens)))
    except NirvanaError as error:
        raise NirvanaError(f"{artefact.name}, {case.describe()}: {error}") from error


@dataclass(slots=True, kw_only=True)
class _CaseRun:
    """A case that is being run, with what goes from call to call."""

    artefact: Artefact
    case: Case
    tokens: CaseTokens
    carried: dict[str, Array] = field(default_factory=dict)

    def graph(self, name: str) -> ComparedGraph:
        if name not in self.artefact.graphs:
            raise NirvanaError(
                f"expected {name}.onnx beside {', '.join(self.artefact.graphs)}, to follow the "
                "cache over decode steps. Give the folder that holds all graphs of the model."
            )
        return self.artefact.graphs[name]

    def call(
        self, what: str, name: str, given: Mapping[str, Array], live: Array | None
    ) -> Observation:
        """Run a graph on what is given and carried, and carry its cache on."""
        graph = self.graph(name)
        feeds = {spec.name: self._feed(spec, given) for spec in graph.inputs}
        outputs = graph.run(feeds)
        for key, value in outputs.items():
            if key.startswith(PRESENT_PREFIX):
                self.carried[to_past(key)] = value
        return Observation(
            what=what,
            graph=name,
            feeds=feeds,
            outputs={key: o for key, o in outputs.items() if not key.startswith(PRESENT_PREFIX)},
            live=live,
            cache={key: o for key, o in outputs.items() if key.startswith(PRESENT_PREFIX)},
            cache_live=given.get("attention_mask"),
            encoder_live=given.get("encoder_attention_mask"),
        )

    def _feed(self, spec: GraphTensor, given: Mapping[str, Array]) -> Array:
        dtype = name_numpy_dtype(spec)
        if spec.name in given:
            return given[spec.name].astype(dtype)
        if spec.name in self.carried:
            return fill_buffer(self.carried[spec.name], spec).astype(dtype)
        if is_past(spec.name):
            sizes = {"batch": self.case.batch, "past_sequence": 0}
            return np.zeros([_size_of(dim, spec, sizes) for dim in spec.shape], dtype)
        if spec.name == "pixel_values":
            sizes = {"batch": self.case.batch}
            shape = [_size_of(dim, spec, sizes) for dim in spec.shape]
            return np.random.default_rng(self.tokens.seed).standard_normal(shape).astype(dtype)
        raise NirvanaError(
            f"the input {spec.name} is not known; known are {', '.join(given)}, {PAST_PREFIX}*, "
            "pixel_values. Export the model with these names."
        )


def fill_buffer(value: Array, spec: GraphTensor) -> Array:
    """Return a cache as long as the buffer that it comes into; as it is where there is none."""
    length = spec.shape[2] if is_past(spec.name) and len(spec.shape) == 4 else None
    if not isinstance(length, int) or length <= value.shape[2]:
        return value
    return np.pad(value, ((0, 0), (0, 0), (0, length - value.shape[2]), (0, 0)))


def name_numpy_dtype(spec: GraphTensor) -> str:
    """Return numpy's name of an input's type; bfloat16, which it lacks, is given as float32."""
    name = str(spec.dtype).removeprefix("torch.")
    return "float32" if name == "bfloat16" else name


def _run(run: _CaseRun) -> Iterator[Observation]:
    names = run.artefact.graphs
    if ENCODER in names:
        yield from _run_encoder_decoder(run)
    elif MODEL in names and not _takes_past(names[MODEL]):
        live = None if _takes_pixels(names[MODEL]) else run.tokens.live
        yield run.call("outputs", MODEL, _text(run.tokens), live)
    elif MODEL in names or DECODER in names:
        yield from _run_decoder(run)
    else:
        run.graph(DECODER)


def _run_decoder(run: _CaseRun) -> Iterator[Observation]:
    tokens = run.tokens
    merged = MODEL in run.artefact.graphs
    live_BT = tokens.live
    first = MODEL if merged else DECODER
    yield run.call("prompt", first, _decoder_inputs(tokens.ids, live_BT), live_BT)
    for step in range(run.case.num_steps):
        live_BT = np.concatenate([live_BT, np.ones_like(live_BT[:, :1])], axis=1)
        ids_B1 = tokens.steps[:, step : step + 1]
        name = MODEL if merged else DECODER_WITH_PAST
        yield run.call(f"step {step + 1}", name, _decoder_inputs(ids_B1, live_BT), None)


def _run_encoder_decoder(run: _CaseRun) -> Iterator[Observation]:
    tokens = run.tokens
    encoded = run.call("encoder", ENCODER, _text(tokens), tokens.live)
    yield encoded
    if _HIDDEN not in encoded.outputs:
        raise NirvanaError(
            f"expected the output {_HIDDEN} of {ENCODER}, found {', '.join(encoded.outputs)}."
        )
    run.carried[_HIDDEN_INPUT] = encoded.outputs[_HIDDEN]
    given = {"encoder_attention_mask": tokens.live}
    merged = _is_merged_decoder(run)
    yield run.call("prompt", DECODER, {**given, "input_ids": tokens.prompt}, None)
    for step in range(run.case.num_steps):
        ids_B1 = tokens.steps[:, step : step + 1]
        name = DECODER if merged else DECODER_WITH_PAST
        yield run.call(f"step {step + 1}", name, {**given, "input_ids": ids_B1}, None)


def _is_merged_decoder(run: _CaseRun) -> bool:
    return DECODER_WITH_PAST not in run.artefact.graphs and _takes_past(run.graph(DECODER))


def _text(tokens: CaseTokens) -> dict[str, Array]:
    length = tokens.ids.shape[1]
    positions = np.broadcast_to(np.arange(length, dtype=np.int64), tokens.ids.shape)
    return {
        "input_ids": tokens.ids,
        "attention_mask": tokens.live,
        "token_type_ids": (positions >= length // 2).astype(np.int64) % max(1, tokens.num_types),
        "position_ids": _count_positions(tokens.live),
    }


def _decoder_inputs(ids_BS: Array, live_BT: Array) -> dict[str, Array]:
    positions_BT = _count_positions(live_BT)
    return {
        "input_ids": ids_BS,
        "attention_mask": live_BT,
        "position_ids": positions_BT[:, -ids_BS.shape[1] :],
    }


def _count_positions(live_BT: Array) -> Array:
    """Number the tokens of each row from 0, as transformers' generate does."""
    positions_BT: Array = np.maximum(live_BT.cumsum(axis=1) - 1, 0)
    return positions_BT


def _takes_past(graph: ComparedGraph) -> bool:
    return any(is_past(spec.name) for spec in graph.inputs)


def _takes_pixels(graph: ComparedGraph) -> bool:
    return any(spec.name == "pixel_values" for spec in graph.inputs)


def _size_of(dim: str | int, spec: GraphTensor, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim not in sizes:
        raise NirvanaError(
            f"the dimension {dim!r} of {spec.name} {list(spec.shape)} is not known; known are "
            f"{', '.join(sizes)}."
        )
    return sizes[dim]
