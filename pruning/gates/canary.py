"""Watches the held-out loss after each pruning stage, and brings back the last good stage."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file
from transformers import PreTrainedModel

from pruning.errors import NirvanaError
from pruning.gates.prune_config import CanaryConfig
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, kept_units, list_sub_blocks
from pruning.strict_json import JsonObject
from pruning.write_aside import finish_replacing, make_folder_aside, put_in_place


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

    def to_json(self) -> list[dict[str, object]]:
        """Return the closed sub-blocks, each with its step."""
        return [{"sub_block": name, "step": step} for name, step in self.collapsed.items()]

    def restore(self, collapsed: Sequence[JsonObject]) -> None:
        """Take up what `to_json` gave."""
        self.collapsed = {entry["sub_block"]: entry["step"] for entry in collapsed}

    def _is_closed(self, sub_block: SubBlock, layers: Sequence[LayerPlan]) -> bool:
        dims = self._dims.layers[sub_block.layer]
        return not kept_units(layers[sub_block.layer], sub_block.part, dims)


LAST_GOOD_FOLDER = "last_good"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutLoss:
    """What validation found at the end of a stage; stage 0 is before the first."""

    stage: int
    step: int
    loss: float
    kept_fraction: float


class Canary:
    """Remembers the good stages of one training; the last one's checkpoint is kept aside."""

    def __init__(self, config: CanaryConfig) -> None:
        self.config = config
        self.losses: list[HeldOutLoss] = []

    @property
    def last_good(self) -> HeldOutLoss | None:
        """The last stage that was good."""
        return self.losses[-1] if self.losses else None

    def admits(self, found: HeldOutLoss) -> bool:
        """Return whether a stage is good, and remember one that is."""
        before, config = self.last_good, self.config
        good = math.isfinite(found.loss)
        if before is not None:
            limits = (config.max_loss_factor * before.loss, before.loss + config.max_loss_rise)
            good = good and found.loss <= max(limits)
        if good:
            self.losses.append(found)
        return good

    def to_json(self) -> list[dict[str, object]]:
        """Return what goes into a checkpoint."""
        return [asdict(loss) for loss in self.losses]

    def restore(self, losses: list[JsonObject]) -> None:
        """Take up what `to_json` gave."""
        self.losses = [HeldOutLoss(**loss) for loss in losses]

    def describe_rise(self, found: HeldOutLoss) -> str:
        """Say what was not admitted, and why."""
        before, config = self.last_good, self.config
        origin = "" if before is None else f" from {before.loss:.4g}"
        return (
            f"The held-out loss rose{origin} to {found.loss:.4g} in pruning stage {found.stage} "
            f"(step {found.step}, {found.kept_fraction:.1%} kept), more than "
            f"canary.max_loss_factor {config.max_loss_factor:g} and canary.max_loss_rise "
            f"{config.max_loss_rise:g} allow."
        )


def keep_checkpoint(checkpoint: Path) -> Path:
    """Keep a Trainer checkpoint where it is not rotated away, in place of the one kept before.

    Files are linked where the file system can, so that they take no room of their own.
    """
    home = checkpoint.parent / LAST_GOOD_FOLDER
    finish_replacing(home)
    with make_folder_aside(home) as aside:
        shutil.copytree(checkpoint, aside / checkpoint.name, copy_function=_link)
        put_in_place(aside, home)
    return home / checkpoint.name


def restore_weights(model: PreTrainedModel, checkpoint: Path) -> None:
    """Give a model the weights of a Trainer checkpoint, its gates among them, in place.

    Raises:
        NirvanaError: they are not there as safetensors, as under FSDP with sharded states.
    """
    files = sorted(checkpoint.glob("model*.safetensors"))
    if not files:
        raise NirvanaError(
            f"Cannot roll back: {checkpoint} holds no model*.safetensors. Resume from it, or let "
            "the Trainer save whole state dicts (FSDP: fsdp_state_dict_type FULL_STATE_DICT)."
        )
    for file in files:
        model.load_state_dict(load_file(file), strict=False)  # tied weights are saved once


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
