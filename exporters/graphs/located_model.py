"""Where the attentions and the MLPs of a plan's dense model are in a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporters.graphs.linear_map import LinearMap
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import StackDims
from pruning.plans.sub_block import SubBlock
from pruning.wirings.wiring import AttentionWiring, MlpWiring, Projection, StackWiring


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedSubBlock:
    """One attention or MLP in a graph.

    Attributes:
        wiring: its record; in a graph without names, one that was made for it.
        inputs: for each projection that is there, its maps: several where a weight is used twice.
    """

    sub_block: SubBlock
    dims: StackDims
    stack: StackWiring
    wiring: AttentionWiring | MlpWiring
    inputs: tuple[tuple[Projection, tuple[LinearMap, ...]], ...]
    output: LinearMap

    @property
    def linears(self) -> Iterator[LinearMap]:
        """All maps, the output's last."""
        for _, linears in self.inputs:
            yield from linears
        yield self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedModel:
    """All sub-blocks of the stacks that a graph has.

    Attributes:
        by: what told where they are: `names` or `pattern`.
        layers: by number in the plan, the sub-blocks of the layer.
        unchecked_heads: layers of which the graph does not show how many heads they have.
    """

    by: str
    layers: dict[int, tuple[LocatedSubBlock, ...]]
    unchecked_heads: tuple[int, ...] = ()

    @property
    def sub_blocks(self) -> Iterator[LocatedSubBlock]:
        """The sub-blocks of all layers."""
        for located in self.layers.values():
            yield from located


def count_rows(projection: Projection, dims: StackDims) -> int:
    """Return the output rows that a projection of the dense model has."""
    if "neuron" in projection.parts:
        return dims.intermediate_size * len(projection.parts)
    heads = {"query": dims.num_heads, "kv": dims.num_kv_heads}
    return dims.head_dim * sum(heads[part] for part in projection.parts)


def count_columns(dims: StackDims, part: str) -> int:
    """Return the input columns that the output projection of a dense sub-block has."""
    return dims.intermediate_size if part == "mlp" else dims.num_heads * dims.head_dim


def check_sizes(located: LocatedSubBlock) -> None:
    """Raise NirvanaError unless every weight has the size that the plan's dims say."""
    dims, sub_block = located.dims, located.sub_block
    for projection, linears in located.inputs:
        for linear in linears:
            _check_size(linear.num_out, count_rows(projection, dims), linear, sub_block)
    if sub_block.part == "mlp":
        _check_neuron(located)
    columns = count_columns(dims, sub_block.part)
    _check_size(located.output.num_in, columns, located.output, sub_block)
    _check_size(located.output.num_out, dims.hidden_size, located.output, sub_block)


def _check_neuron(located: LocatedSubBlock) -> None:
    """Refuse a plan whose model has other weights per neuron: a gated MLP for a plain one."""
    inputs = sum(len(projection.parts) * lis[0].num_in for projection, lis in located.inputs)
    came, expected = inputs + located.output.num_out, located.dims.sizes.neuron_weights
    if came != expected:
        raise NirvanaError(
            f"The plan was made for sizes.neuron_weights {expected} of the {located.dims.name}, "
            f"the graph has {came} in layer {located.sub_block.layer}. Apply it to the dense graph "
            "of the model that it was made for."
        )


def check_once(sub_blocks: Sequence[LocatedSubBlock]) -> None:
    """Raise NirvanaError if two projections of the plan share a weight."""
    owners: dict[int, str] = {}
    for located in sub_blocks:
        groups = [(p.path, linears) for p, linears in located.inputs]
        for path, linears in [*groups, (located.wiring.output, (located.output,))]:
            owner = f"layer {located.sub_block.layer}, {path}"
            for linear in linears:
                known = owners.setdefault(id(linear.weight), owner)
                if known != owner:
                    raise NirvanaError(
                        f"Initializer {linear.weight.name} is the weight of {known} and of {owner}:"
                        " layers that share weights cannot be pruned apart."
                    )


def _check_size(came: int, expected: int, linear: LinearMap, sub_block: SubBlock) -> None:
    if came != expected:
        raise NirvanaError(
            f"Layer {sub_block.layer}, {sub_block.part}: the plan's model has a weight of "
            f"{expected} units' channels, initializer {linear.weight.name} has {came}. Is the plan "
            "of another model, or the graph pruned already?"
        )
