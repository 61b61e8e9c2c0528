"""Notices when every gate of an attention or MLP has closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, kept_units, list_sub_blocks


class CollapseWatch:
    """Remembers which sub-blocks are closed, and by which step.

    One that opens again is forgotten: while gates learn, that happens.
    """

    def __init__(self, dims: DenseDims) -> None:
        self._dims = dims
        self.collapsed: dict[str, int] = {}  # sub-block: step

    def look(self, layers: Sequence[LayerPlan], step: int) -> str | None:
        """Take in what is kept after `step` steps; say which sub-blocks closed since the last look.

        They are named as in files: "3.mlp" is the MLP of layer 3, counted over all stacks from 0.
        """
        closed = [s.name for s in list_sub_blocks(self._dims) if self._is_closed(s, layers)]
        new = [name for name in closed if name not in self.collapsed]
        self.collapsed = {name: self.collapsed.get(name, step) for name in closed}
        if not new:
            return None
        return (
            f"Step {step} closed every gate of {', '.join(new)}: of these nothing but the output's "
            "bias is left. At a small budget that may be best; if it came early, lower "
            "gate_learning_rate or take more schedule.num_stages."
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Return the closed sub-blocks, each with its step."""
        return [{"sub_block": name, "step": step} for name, step in self.collapsed.items()]

    def restore(self, collapsed: Sequence[dict[str, Any]]) -> None:
        """Take up what `to_json` gave."""
        self.collapsed = {entry["sub_block"]: entry["step"] for entry in collapsed}

    def _is_closed(self, sub_block: SubBlock, layers: Sequence[LayerPlan]) -> bool:
        dims = self._dims.layers[sub_block.layer]
        return not kept_units(layers[sub_block.layer], sub_block.part, dims)
