"""What can be compared: a checkpoint, ONNX files, an engine. Each is a set of graphs.

A graph is known by its file's stem, and its tensors by name, as in `exporters.trace.graph_part`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from exporters.export_config import GraphPrecision
from exporters.trace.graph_part import GraphTensor

Array = NDArray[Any]

MODEL, ENCODER = "model", "encoder_model"
DECODER, DECODER_WITH_PAST = "decoder_model", "decoder_with_past_model"
GRAPH_NAMES = (MODEL, ENCODER, DECODER, DECODER_WITH_PAST)


class ComparedGraph(Protocol):
    """One graph that can be run."""

    @property
    def inputs(self) -> tuple[GraphTensor, ...]:
        """List what it takes."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """List what it gives."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; floats as float32."""
        ...

    def run_blocks(self, inputs: Mapping[str, Array]) -> dict[int, Array]:
        """Return what each block gives to the next, by the block's number, in float32.

        Raises:
            NirvanaError: the blocks cannot be told apart in this graph.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """Say which inputs a model can take; None is not known.

    Attributes:
        num_tokens: size of the vocabulary.
        avoided: ids that are not drawn at random: see `pruning.token_ids`.
        num_types: values that token_type_ids can have.
        max_length: tokens that the table of positions has room for.
        text: rows of real tokens to take inputs from, where random ones would tell nothing.
    """

    num_tokens: int | None = None
    pad_token: int | None = None
    avoided: frozenset[int] = frozenset()
    num_types: int | None = None
    max_length: int | None = None
    text: tuple[Array, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A model in one of its forms.

    Attributes:
        name: what messages call it: its path.
        graphs: by name, of GRAPH_NAMES.
        notes: what a reader of the comparison must know of how it was run.
        corners: batch and length of each corner of an optimization profile, by `min`, `opt`, `max`;
            empty where any shape will do.
    """

    name: str
    precision: GraphPrecision
    graphs: Mapping[str, ComparedGraph]
    facts: TokenFacts
    corners: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...] = ()
