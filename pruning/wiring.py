"""Where each model type keeps its attention and its MLP: data, one record a type.

Paths are relative to a block. A new architecture is one record here and one tiny config in the
test table. Fields that differ between types are oddities; code never asks for the type itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from pruning.errors import NirvanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Say where the prunable parts of one block live.

    Attributes:
        blocks: path of the list of blocks, from the base model.
        attention_core: module that holds query, key and value, and the counts.
        attention_output: the Linear that mixes the heads. When it lies inside `attention_core`,
            a dropped attention replaces the whole core.
        head_count: attributes of the core that hold the number of heads.
        head_width: attributes of the core that hold heads x head_dim.
        mlp_inputs: Linears whose output rows are neurons.
        mlp_output: the Linear whose input columns are neurons.
    """

    model_type: str
    blocks: str
    attention_core: str
    query: str
    key: str
    value: str
    attention_output: str
    head_count: tuple[str, ...]
    head_width: tuple[str, ...]
    mlp_inputs: tuple[str, ...]
    mlp_output: str

    @property
    def qkv(self) -> tuple[str, str, str]:
        """The three projections whose output rows belong to heads."""
        return (self.query, self.key, self.value)

    @property
    def linears(self) -> tuple[str, ...]:
        """Every Linear of a block that this record claims."""
        return (*self.qkv, self.attention_output, *self.mlp_inputs, self.mlp_output)

    def to_json(self) -> dict[str, Any]:
        """Return the record as the plain mapping that a checkpoint's config carries."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


_BERT = Wiring(
    model_type="bert",
    blocks="encoder.layer",
    attention_core="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    head_count=("num_attention_heads",),
    head_width=("all_head_size",),
    mlp_inputs=("intermediate.dense",),
    mlp_output="output.dense",
)

_DISTILBERT = Wiring(
    model_type="distilbert",
    blocks="transformer.layer",
    attention_core="attention",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    head_count=("n_heads",),
    head_width=(),
    mlp_inputs=("ffn.lin1",),
    mlp_output="ffn.lin2",
)

WIRINGS: dict[str, Wiring] = {
    record.model_type: record
    for record in (
        _BERT,
        replace(_BERT, model_type="roberta"),
        replace(_BERT, model_type="xlm-roberta"),
        replace(_BERT, model_type="camembert"),
        replace(_BERT, model_type="electra"),
        _DISTILBERT,
    )
}


def find_wiring(model_type: str) -> Wiring:
    """Return the record of a model type; refuse an unknown one with the list of known ones."""
    if model_type not in WIRINGS:
        raise NirvanaError(
            f"Model type {model_type!r} is not wired for pruning. Known: "
            f"{', '.join(sorted(WIRINGS))}. To add one: a record in pruning/wiring.py and a tiny "
            "config in tests/pruning/tiny_models.py."
        )
    return WIRINGS[model_type]
