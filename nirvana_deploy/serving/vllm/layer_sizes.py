"""How many heads, KV heads and neurons each layer of a checkpoint has, read from its config."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject
from pruning.wirings.known_wirings import WIRINGS
from pruning.wirings.wiring import StackWiring, Wiring


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """Count what one layer has; 0: none of it is left."""

    num_heads: int
    num_kv_heads: int
    num_neurons: int

    @property
    def heads_per_group(self) -> int:
        """Query heads of one KV head; 0 without any."""
        return self.num_heads // self.num_kv_heads if self.num_kv_heads else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSizes:
    """What a decoder's checkpoint holds.

    Attributes:
        stack: where its attentions and MLPs are.
        layers: those that are left.
        head_dim: channels of a head.
        dense_heads: query heads of a layer of the dense model.
    """

    stack: StackWiring
    layers: tuple[LayerSize, ...]
    head_dim: int
    dense_heads: int


def read_sizes(document: JsonObject) -> CheckpointSizes:
    """Read the sizes from the document in `config.json`, of a pruned or a plain checkpoint.

    Raises:
        NirvanaError: the model is no decoder with query, key, value, gate, up and down apart.
    """
    pruned = document.get("nirvana")
    wiring = Wiring.from_json(pruned["wiring"]) if pruned else WIRINGS.get(document["model_type"])
    if wiring is None or len(wiring.stacks) != 1 or not _is_apart(wiring.stacks[0]):
        fitting = sorted(
            name for name, w in WIRINGS.items() if len(w.stacks) == 1 and _is_apart(w.stacks[0])
        )
        raise NirvanaError(
            f"{document['model_type']} is not packaged in this form, which is for decoders with "
            f"query, key, value and MLP projections apart: {', '.join(fitting)}. Prune it with "
            "allocation uniform and package it with form uniform."
        )
    stack = wiring.stacks[0]
    if pruned:
        described = pruned["stacks"][0]
        layers = tuple(
            LayerSize(
                num_heads=layer["num_heads"] or 0,
                num_kv_heads=layer["num_kv_heads"] or 0,
                num_neurons=layer["num_neurons"] or 0,
            )
            for layer in described["layers"]
        )
        return CheckpointSizes(
            stack=stack,
            layers=layers,
            head_dim=described["head_dim"],
            dense_heads=described["num_heads"],
        )
    keys = stack.config
    heads = document[keys.heads]
    size = LayerSize(
        num_heads=heads,
        num_kv_heads=document.get(keys.kv_heads) or heads,
        num_neurons=document[keys.neurons],
    )
    return CheckpointSizes(
        stack=stack,
        layers=(size,) * document[keys.num_layers],
        head_dim=document.get(keys.head_dim) or document["hidden_size"] // heads,
        dense_heads=heads,
    )


def _is_apart(stack: StackWiring) -> bool:
    """Tell whether each projection holds one kind of unit, and the config names a head's width."""
    projections = (*stack.attention.inputs, *stack.mlp.inputs)
    return (
        all(len(projection.parts) == 1 for projection in projections)
        and not stack.transposed
        and stack.cross_attention is None
        and bool(stack.config.head_dim and stack.config.kv_heads)
    )
