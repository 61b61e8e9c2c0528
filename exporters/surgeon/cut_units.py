"""Pass: takes the heads and neurons out of a graph that the plan does not keep."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import LinearMap
from exporters.graphs.located_model import (
    LocatedModel,
    LocatedSubBlock,
    count_columns,
    count_rows,
)
from exporters.surgeon.cut_rules import follow_cuts
from exporters.surgeon.fused_cut_rules import start_attention
from exporters.surgeon.graph_cutter import GraphCutter, ProjectionCut
from exporters.surgeon.replace_value import remove_unused
from exporters.surgeon.unit_cut import UnitCut
from pruning.cutting.cuts import cut_block
from pruning.plans.plan import PruningPlan


class CutUnits(InPlacePass):
    """Cut the projections of each sub-block, and all that their units go through."""

    def __init__(self, located: LocatedModel, plan: PruningPlan, facts: GraphFacts) -> None:
        super().__init__()
        self._located, self._plan, self._facts = located, plan, facts

    def call(self, model: ir.Model) -> PassResult:
        """Cut them."""
        cutter = GraphCutter(
            graph=model.graph,
            dense=self._facts,
            starts={},
            ends={},
            follow=follow_cuts,
            start_attention=start_attention,
        )
        for located in self._located.sub_blocks:
            self._add_cuts(cutter, located)
        if not cutter.starts and not cutter.ends:
            return PassResult(model, modified=False)
        cutter.run()
        remove_unused(model.graph)
        cutter.name_like_dense()
        return PassResult(model, modified=True)

    def _add_cuts(self, cutter: GraphCutter, located: LocatedSubBlock) -> None:
        layer, dims = located.sub_block.layer, located.dims
        cuts = cut_block(located.stack, dims, self._plan.layers[layer])

        def add(
            cuts_by: dict[ir.Node, ProjectionCut], linear: LinearMap, path: str, n: int
        ) -> None:
            cut = cuts.find(f"{path}.weight")
            if cut is None or cut.kept is None or len(cut.kept) == n:
                return
            what = f"layer {layer}, {path}"
            kept = UnitCut.keep(cut.kept, n)
            cuts_by[linear.node] = ProjectionCut(linear=linear, cut=kept, what=what)

        for projection, linears in located.inputs:
            for linear in linears:
                if linear.node.graph is not None:
                    add(cutter.starts, linear, projection.path, count_rows(projection, dims))
        if located.output.node.graph is not None:
            columns = count_columns(dims, located.sub_block.part)
            add(cutter.ends, located.output, located.wiring.output, columns)
