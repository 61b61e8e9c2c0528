"""What pruning methods are compared on: a dense model, its calibration draws, budget and loss.

Every method gets the same draws, is held to the same count of block parameters, and is measured on
the same validation rows.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from method_models import CLASSES, measure_model, read_rows
from torch import nn

from pruning.calibration.calibration import draw_calibration
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.calibration.calibration_documents import Document
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.plans.cost import ParameterCost, dense_cost, layer_cost
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import kept_units
from pruning.scoring.block_walk import Batch
from pruning.scoring.saliency import ScoringTask
from pruning.wirings.sites import find_sites

COST = ParameterCost()
# Neurons are cut in steps of 8 by every method, so that none is at a disadvantage.
NEURON_MULTIPLE = 8


@dataclass(slots=True)
class Pruned:
    """What a method made of the dense model.

    Attributes:
        model: runs and trains as it is.
        layers: what it keeps.
        note: what was not done as asked, and why.
    """

    model: hf.PreTrainedModel
    layers: tuple[LayerPlan, ...]
    note: str = ""


@dataclass(kw_only=True)
class Subject:
    """One dense model to prune; `folder` is what `method_models` made."""

    name: str
    folder: Path
    num_sequences: int
    _draws: dict[tuple[int, int], tuple[Batch, ...]] = field(default_factory=dict)

    @cached_property
    def model(self) -> hf.PreTrainedModel:
        """The dense model; nobody changes it."""
        return CLASSES[self.name].from_pretrained(self.folder).eval()

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return hf.AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def dims(self) -> DenseDims:
        """Its dimensions."""
        return read_model(self.model).dims

    @cached_property
    def dense(self) -> dict[str, float]:
        """Its figures on the validation rows, measured when it was trained."""
        return dict(json.loads((self.folder / "dense.json").read_text()))

    @cached_property
    def documents(self) -> list[Document]:
        """The training rows that calibration draws from."""
        rows = read_rows("train")
        if self.name == "encoder":
            labelled = [row for row in rows if row["label"] >= 0]
            return [Document(row["description"], label=row["section"]) for row in labelled]
        if self.name == "seq2seq":
            return [Document(row["description"], target=row["synopsis"]) for row in rows]
        return [Document(row["description"]) for row in rows]

    def draw(self, seed: int, number: int = 0) -> tuple[Batch, ...]:
        """Return one of a seed's draws; most methods take the first."""
        key = (seed, number)
        if key not in self._draws:
            config = CalibrationConfig(num_sequences=self.num_sequences, seed=seed)
            self._draws[key] = draw_calibration(
                self.model, self.tokenizer, self.documents, config, number
            ).batches
        return self._draws[key]

    def make_task(self, batches: Sequence[Batch]) -> ScoringTask:
        """Return a scoring task on the dense model."""
        return make_task(self.model, batches)

    def copy_task(self, batches: Sequence[Batch]) -> ScoringTask:
        """Return a scoring task on a copy, which may be pruned in place."""
        return make_task(copy.deepcopy(self.model), batches)

    def cut(self, pruned_in_place: hf.PreTrainedModel, layers: Sequence[LayerPlan]) -> Pruned:
        """Return what is left of a model whose kept weights are already as they shall be."""
        plan = plan_for(pruned_in_place, layers)
        return Pruned(repack(pruned_in_place, plan).eval(), tuple(layers))

    def kept_fraction(self, layers: Sequence[LayerPlan]) -> float:
        """Return the share of the dense blocks' parameters that is kept."""
        pairs = zip(layers, self.dims.layers, strict=True)
        kept = sum(layer_cost(layer, dims, COST) for layer, dims in pairs)
        return kept / dense_cost(self.dims, COST)

    def measure(self, model: hf.PreTrainedModel) -> dict[str, float]:
        """Return the loss on the validation rows, and what goes with it."""
        return measure_model(self.name, model, self.tokenizer)


def make_task(model: hf.PreTrainedModel, batches: Sequence[Batch]) -> ScoringTask:
    """Return a scoring task on a dense model."""
    return ScoringTask(model, find_sites(model, read_model(model)), batches)


def keep_zeros(task: ScoringTask, layers: Sequence[LayerPlan]) -> None:
    """Mask what `layers` do not keep for good, in place, so that training cannot bring it back."""
    for site in task.sites.values():
        units = kept_units(layers[site.sub_block.layer], site.sub_block.part, site.dims) or ()
        mask_U = torch.zeros(site.num_units)
        mask_U[list(units)] = 1
        site.output.register_forward_pre_hook(
            partial(_mask, mask_U.repeat_interleave(site.unit_width))
        )


def _mask(mask_C: torch.Tensor, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0] * mask_C, *args[1:])
