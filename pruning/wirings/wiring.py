"""Says where a model type keeps its attention and its MLP: frozen records, no code per model.

Paths are relative to a block. The records themselves are in `encoder_wirings.py`,
`decoder_wirings.py` and `encoder_decoder_wirings.py`; `known_wirings.py` lists them. Fields that
only some types need are oddities; code asks for the oddity, never for the type.

Llama's blocks in one picture, each path with what its rows hold:

    model.layers.3                           StackWiring.blocks = "layers"
      self_attn                              AttentionWiring.core
        q_proj  |q0|q1|q2|q3|                inputs: parts ("query",)
        k_proj  |k0|k1|                              parts ("kv",): a key per group of query heads
        v_proj  |v0|v1|                              parts ("kv",)
        o_proj                               output: its columns are in q_proj's order
      mlp
        gate_proj, up_proj  |n0|n1|...|      MlpWiring.inputs: parts ("neuron",)
        down_proj                            output

Three ways in which a fused projection holds the same rows:

    parts ("query", "kv", "kv")              |q0 q1 q2 q3|k0 k1|v0 v1|     GPT-2, Phi-3
    the same, grouped                        |q0 q1 k0 v0|q2 q3 k1 v1|     GPT-NeoX, Falcon
    parts ("neuron", "neuron")               |gate neurons|up neurons|     Phi-3's MLP
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from pruning.strict_json import convert_json

Unit = Literal["query", "kv", "neuron"]
Count = Literal["heads", "kv_heads", "groups", "width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A linear map whose output rows belong to units.

    Attributes:
        parts: what the rows hold, in order. Fused projections have several: all query heads, then
            all key heads, then all value heads; or all gate neurons, then all up neurons.
        grouped: the parts alternate instead, group by group: the query heads of a KV group, its
            key, its value.
        optional: some configurations of the type do without it.
    """

    path: str
    parts: tuple[Unit, ...]
    grouped: bool = False
    optional: bool = False


def separate_qkv(core: str, query: str, key: str, value: str) -> tuple[Projection, ...]:
    """Return the projections of an attention that has three, by their names in its core."""
    return (
        Projection(path=f"{core}.{query}", parts=("query",)),
        Projection(path=f"{core}.{key}", parts=("kv",)),
        Projection(path=f"{core}.{value}", parts=("kv",)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWiring:
    """Say where one attention lives.

    Attributes:
        core: the module that computes heads; it returns a tuple that begins with hidden states.
        output: the linear map that mixes the heads. Where it lies inside `core`, a dropped
            attention replaces the whole core.
        head_dim: attribute of the core with the channels of one head.
        counts: attributes of the core that hold a count, and which.
        config_counts: the same, for counts that the core reads from its config while it runs.
        per_head_inputs: arguments of the core that may have one slice a dense head, on axis 1. A
            smaller layer takes those of its own heads.
        shared_bias: the argument in which a position bias goes from layer to layer. It is made
            with all dense heads by the core that has the table, and each layer takes its own.
        bias_table: the module of the core with that table; it keeps its size.
        residual_norm: the norm that the output goes through before it is added to the residual
            stream, where there is one (Gemma 2).
    """

    core: str
    inputs: tuple[Projection, ...]
    output: str
    head_dim: str
    counts: tuple[tuple[str, Count], ...] = ()
    config_counts: tuple[tuple[str, Count], ...] = ()
    per_head_inputs: tuple[str, ...] = ()
    shared_bias: str = ""
    bias_table: str = ""
    residual_norm: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpWiring:
    """Say where one MLP lives.

    Attributes:
        inputs: linear maps whose output rows are neurons; a gated MLP has two, or a fused one.
        output: the linear map whose input columns are neurons.
        core: the module from hidden states to hidden states, where the type has one: a dropped
            MLP replaces it. Otherwise `inputs` and `output` are replaced each by itself.
        residual_norm: as of an attention.
    """

    inputs: tuple[Projection, ...]
    output: str
    core: str = ""
    residual_norm: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKeys:
    """Name the config's attributes of one stack, for configs with smaller numbers.

    An empty name: the config has no such attribute, it follows from others.
    """

    num_layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    kv_heads: str = ""
    neurons: str = "intermediate_size"
    head_dim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackWiring:
    """Say where the equal blocks of an encoder or a decoder are, and what each holds.

    Attributes:
        blocks: path of the list of blocks, from the base model.
        left_alone: linear maps of a block that pruning does not touch.
        keep_first: why the first block cannot be dropped, where it cannot.
        not_shorter: why, at the end, this stack cannot have fewer blocks than the next one.
        numbered_if: config flag under which a block computes by its number, so that none can go.
        transposed: weights are [in, out], as in transformers' Conv1D.
    """

    name: Literal["encoder", "decoder"]
    blocks: str
    attention: AttentionWiring
    mlp: MlpWiring
    cross_attention: AttentionWiring | None = None
    config: ConfigKeys = ConfigKeys()
    left_alone: tuple[str, ...] = ()
    keep_first: str = ""
    not_shorter: str = ""
    numbered_if: str = ""
    transposed: bool = False

    @property
    def parts(self) -> tuple[AttentionWiring | MlpWiring, ...]:
        """The attentions and the MLP."""
        return (*self.attentions, self.mlp)

    @property
    def attentions(self) -> tuple[AttentionWiring, ...]:
        """The self-attention, and the cross-attention where there is one."""
        found = (self.attention, self.cross_attention)
        return tuple(attention for attention in found if attention is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Say where everything prunable of a model type is.

    Attributes:
        inferred_from: the type whose record fitted, when this one was found by structure.
    """

    model_type: str
    stacks: tuple[StackWiring, ...]
    inferred_from: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the record as the plain mapping that a checkpoint's config carries."""
        plain = _to_plain(asdict(self))
        assert isinstance(plain, dict)
        return plain

    @classmethod
    def from_json(cls, data: object) -> Wiring:
        """Read back what `to_json` gave.

        Raises:
            NirvanaError: it is another thing; the message names the place in it.
        """
        name = "nirvana.wiring of the model's config"
        return convert_json(data, cls, name=name, remedy="Prune the model again.")


def _to_plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    return [_to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
