"""Pass: takes out attentions and MLPs of which the plan keeps no unit."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import is_activated
from exporters.graphs.located_model import LocatedModel, LocatedSubBlock
from exporters.graphs.node_reading import name_node
from exporters.surgeon.cache_entries import remove_cache_entries
from exporters.surgeon.constant_outputs import ZERO, ConstantOutputs, Vector, bias_vector
from exporters.surgeon.kept_lengths import keep_lengths
from exporters.surgeon.replace_value import remove_unused
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.plans.sub_block import SubBlock


def kept_units(plan: PruningPlan, sub_block: SubBlock) -> tuple[int, ...] | None:
    """Return what a plan keeps of a sub-block: query heads, or neurons."""
    layer = plan.layers[sub_block.layer]
    kept = {
        "attention": layer.kept_heads,
        "cross_attention": layer.kept_cross_heads,
        "mlp": layer.kept_neurons,
    }
    return kept[sub_block.part]


class DropSubBlocks(InPlacePass):
    """Put the constant that is left of each such sub-block in its place, and fold it."""

    def __init__(self, located: LocatedModel, plan: PruningPlan, facts: GraphFacts) -> None:
        super().__init__()
        self._located, self._plan, self._facts = located, plan, facts

    def call(self, model: ir.Model) -> PassResult:
        """Drop them; a cache that goes with one is dropped too."""
        gone = list(self._dropped())
        if not gone:
            return PassResult(model, modified=False)
        remove_cache_entries(model.graph, gone)
        vectors: dict[ir.Value, Vector] = {}
        without_bias = set()
        for located in gone:
            linear = located.output
            if is_activated(linear.node):
                raise NirvanaError(
                    f"{name_node(linear.node)}: it applies an activation to what a dropped "
                    "sub-block gave, which is not known here. Export the pruned checkpoint instead:"
                    " `nirvana export`."
                )
            if kept_units(self._plan, located.sub_block) is None:
                vectors[linear.result] = ZERO
                without_bias.add(linear.result)
            else:
                vectors[linear.result] = bias_vector(linear.bias)
        weight = gone[0].output.weight.const_value
        assert weight is not None
        keep_lengths(model.graph, self._facts, gone)
        ConstantOutputs(model.graph, self._facts, weight.dtype).fold(vectors, without_bias)
        remove_unused(model.graph)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """No weight of a dropped sub-block is left."""
        for located in self._dropped():
            for linear in located.linears:
                if linear.node.graph is not None:
                    what = f"layer {located.sub_block.layer}, {located.sub_block.part}"
                    raise PostconditionError(
                        f"{what}: {linear.weight.name} is needed beside it, so that it cannot be "
                        "dropped"
                    )

    def _dropped(self) -> Iterator[LocatedSubBlock]:
        for located in self._located.sub_blocks:
            if not kept_units(self._plan, located.sub_block):
                yield located
