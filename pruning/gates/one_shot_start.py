"""Starts gates where one-shot pruning ends: at the budget, with what stays repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.allocation.allocation_config import KlKnapsack, allocate
from pruning.allocation.constraints import Constraints
from pruning.cutting.repack import read_dense
from pruning.errors import NirvanaError
from pruning.gates.gate_registry import GateRegistry
from pruning.oneshot.oneshot_config import LeastSquares
from pruning.plans.cost import CostModel
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, count_units, kept_units
from pruning.repair.repair import prune_in_place
from pruning.scoring.block_walk import Batch
from pruning.scoring.fisher import Fisher
from pruning.scoring.kl_curves import measure_curves
from pruning.scoring.known_saliencies import score_units
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.strict_json import JsonObject
from pruning.tasks.text_data import LabelledText, collate
from pruning.wirings.sites import find_sites


def make_start_task(model: PreTrainedModel, batches: Sequence[Batch]) -> ScoringTask:
    """Return what a saliency looks at. The model has no gates yet: they would scale what it sees.

    Batches hold labels, and no padding.
    """
    return ScoringTask(model, find_sites(model, read_dense(model)), batches)


def score_query_heads(task: ScoringTask) -> Scores:
    """Return the Fisher information of each query head, [num_heads], where KV groups share keys.

    Saliencies score KV groups; Fisher's masks stand at the output projection, where heads part.
    """
    sites = {
        sub_block: replace(site, num_units=site.dims.num_heads, unit_width=site.dims.head_dim)
        for sub_block, site in task.sites.items()
        if sub_block.part != "mlp" and site.dims.heads_per_group > 1
    }
    if not sites:
        return {}
    return score_units(Fisher(), ScoringTask(task.model, sites, task.batches))


def draw_start_batches(
    text: LabelledText, tokenizer: PreTrainedTokenizerBase, num_rows: int, batch_size: int
) -> list[dict[str, torch.Tensor]]:
    """Return the first training rows, those of equal length together.

    Padding would count in activations and positions.
    """
    groups: dict[tuple[int, ...], list[dict[str, object]]] = {}
    for row in text.train.select(range(min(num_rows, len(text.train)))):
        groups.setdefault(_measure(row), []).append(row)
    return [
        collate(tokenizer, rows[start : start + batch_size])
        for _, rows in sorted(groups.items())
        for start in range(0, len(rows), batch_size)
    ]


def _measure(row: JsonObject) -> tuple[int, ...]:
    """Return the number of tokens, and of labels where each token or a target text has them."""
    labels = row.get("labels")
    return (len(row["input_ids"]), len(labels) if isinstance(labels, list) else 0)


# U units of a sub-block, C channels at an output projection's input.

_BUDGETS = tuple(step / 20 for step in range(19, 0, -1))  # at which survival is looked up


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotStart:
    """Where the gates start.

    Attributes:
        layers: what is open at first: the budget, exactly.
        survival: of each unit [U], the least budget of those tried that keeps it; 1 where none
            does.
    """

    layers: tuple[LayerPlan, ...]
    survival: Mapping[SubBlock, torch.Tensor]


@torch.no_grad()
def find_one_shot_start(
    task: ScoringTask,
    dims: DenseDims,
    scores: Scores,
    cost: CostModel,
    budget: float,
    constraints: Constraints,
) -> OneShotStart:
    """Prune a dense model one-shot, and repair its weights in place.

    Units go in the order of `scores`, layers share the budget by KL curves and the knapsack. What
    is kept is repaired by least squares; the weights of the rest stay, for gates that open again.

    Raises:
        NirvanaError: the budget cannot be reached.
    """
    allocation = KlKnapsack()
    curves = measure_curves(
        task,
        scores,
        num_levels=allocation.num_levels,
        damping=LeastSquares().damping,
        num_measured=allocation.num_measured,
    )
    numbers = {sub_block: values.tolist() for sub_block, values in scores.items()}

    def keep(share: float) -> tuple[LayerPlan, ...]:
        return allocate(
            allocation,
            dims,
            numbers,
            cost=cost,
            budget=share,
            constraints=constraints,
            curves=curves,
        )

    layers = keep(budget)
    survival = {s: torch.ones(count_units(s, dims)) for s in task.sites}
    for share in _BUDGETS:
        try:
            kept = keep(share)
        except NirvanaError:  # the constraints leave no less
            break
        for sub_block, values_U in survival.items():
            values_U[_list_kept(kept, sub_block, dims)] = share
    _repair_kept(task, layers, dims)
    return OneShotStart(layers=layers, survival=survival)


@torch.no_grad()
def start_at_budget(registry: GateRegistry, start: OneShotStart) -> None:
    """Set every head and neuron gate that learns, in place: open are those of `start.layers`.

    Logits follow the order of survival, and within it the share of the whole cost that is less
    worth, as in a warm start; the budget lies at 0.
    """
    learning = {s: g.units.logit for s, g in registry.sub_block_gates() if g.units.learns}
    if not learning:
        return
    dims = registry.dims
    worth, costs, is_kept = [], [], []
    for sub_block, logit_U in learning.items():
        kept = torch.zeros(len(logit_U), dtype=torch.bool)
        kept[_list_kept(start.layers, sub_block, dims)] = True
        is_kept.append(kept)
        worth.append(-start.survival[sub_block] + 2.0 * kept)
        costs.append(torch.full((len(logit_U),), float(registry.price_unit(sub_block))))
    all_costs, all_kept = torch.cat(costs), torch.cat(is_kept)
    order = torch.cat(worth).argsort(stable=True)
    below = torch.empty_like(all_costs)
    below[order] = all_costs[order].double().cumsum(0).float()
    closed = below[~all_kept].max() if (~all_kept).any() else below.new_zeros(())
    logits = registry.spread * (below - closed) / all_costs.sum()
    for logit_U, values_U in zip(
        learning.values(),
        logits.split([len(logit_U) for logit_U in learning.values()]),
        strict=True,
    ):
        logit_U.copy_(values_U)


def _list_kept(layers: Sequence[LayerPlan], sub_block: SubBlock, dims: DenseDims) -> list[int]:
    kept = kept_units(layers[sub_block.layer], sub_block.part, dims.layers[sub_block.layer])
    return list(kept or ())


def _repair_kept(task: ScoringTask, layers: Sequence[LayerPlan], dims: DenseDims) -> None:
    """Repair what is kept, and give what is not its weights back, in place."""
    before = {s: site.output_weight().detach().clone() for s, site in task.sites.items()}
    prune_in_place(task, layers, LeastSquares())
    for sub_block, site in task.sites.items():
        gone = torch.ones(site.num_units, dtype=torch.bool, device=site.output_weight().device)
        gone[_list_kept(layers, sub_block, dims)] = False
        channels = site.channels(gone.nonzero().flatten())
        site.output_weight()[:, channels] = before[sub_block][:, channels]
