"""The Torch-Pruning package itself (VainF, https://github.com/VainF/Torch-Pruning) as a peer.

    pip install 'nirvana-deploy[bench]'

Its own pruner scores, ranks, thresholds and rounds, set up as in its examples for BERT and LLMs:
`num_heads`, `prune_num_heads`, no pruned head dimensions, groups' mean of L2 norms or Taylor terms.
The hidden size is ignored, so that it cuts the units that all methods here cut. What it chooses is
read off its pruning groups and cut by `repack`, which also puts heads of T5 out (see `_trace`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import transformers as hf
from method_subjects import NEURON_MULTIPLE, Pruned, Subject, make_task
from torch import nn

from pruning.errors import MissingExtraError, NirvanaError
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock
from pruning.saliencies.model_passes import read_loss
from pruning.saliencies.saliency import ScoringTask
from pruning.wirings.sites import Site

_GRID = 48  # ratios that are tried, before the rest of the budget goes to neurons
_HALVINGS = 12

Layers = tuple[LayerPlan, ...]


def prune_torch_pruning(
    subject: Subject, budget: float, seed: int, *, taylor: bool, is_global: bool
) -> Pruned:
    """Prune by the package's group magnitude or group Taylor importance, locally or globally.

    Its ratios are searched for the budget: one for heads and neurons, then that of the neurons is
    lowered while that fits.

    Raises:
        MissingExtraError: it is not installed.
        NirvanaError: none of its ratios meets the budget, or it fails at all of them.
    """
    task = _prepare(subject, seed, taylor)
    choose = partial(_choose, task, taylor, is_global)
    layers, note = search_ratios(subject, budget, choose)
    return Pruned(subject.cut(subject.model, layers).model, layers, note)


def search_ratios(
    subject: Subject, budget: float, choose: Callable[[float, float], Layers]
) -> tuple[Layers, str]:
    """Return the layers that come nearest to the budget from below, and what failed on the way.

    Args:
        choose: from a ratio of heads and one of neurons to layers.
    """
    failures: list[str] = []

    def keep(heads: float, neurons: float) -> tuple[float, Layers | None]:
        """Return the kept fraction, above any budget where the package fails."""
        try:
            layers = choose(heads, neurons)
        except Exception as error:  # whatever it raises is its result
            failures.append(f"{type(error).__name__}: {error}")
            return 2.0, None
        return subject.kept_fraction(layers), layers

    ratios = [step / _GRID for step in range(_GRID)]
    fits = [ratio for ratio in ratios if keep(ratio, ratio)[0] <= budget]
    note = ""
    if fits:
        heads, high = fits[0], fits[0]
    else:
        # Beyond some ratio it leaves an attention whole rather than empty: cut neurons instead.
        fits = [ratio for ratio in reversed(ratios) if keep(ratio, 0.99)[0] <= budget]
        if not fits:
            raise NirvanaError(_describe_failure(budget, failures))
        heads, high = fits[0], 0.99
        note = f"one ratio for heads and neurons cannot meet the budget; heads have {heads:.3f}"
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if keep(heads, middle)[0] <= budget:
            high = middle
        else:
            low = middle
    layers = keep(heads, high)[1]
    assert layers is not None
    return layers, "; ".join(filter(None, [note, _count_failures(failures)]))


def _prepare(subject: Subject, seed: int, taylor: bool) -> ScoringTask:
    """Return a task on a copy of the model, with the gradients of all calibration batches."""
    task = make_task(copy.deepcopy(subject.model), subject.draw(seed))
    if taylor:
        for batch in task.batches:
            read_loss(task.model, batch).backward()
    return task


def _choose(
    task: ScoringTask, taylor: bool, is_global: bool, heads: float, neurons: float
) -> Layers:
    """Return what one step of the package's pruner keeps."""
    tp = _load_package()
    kind = tp.importance.GroupTaylorImportance if taylor else tp.importance.GroupMagnitudeImportance
    num_heads = _list_heads(task)
    units = {module for site in task.sites.values() for _, module in site.inputs}
    with _trace(task.model):
        pruner = tp.pruner.BasePruner(
            task.model,
            _example(task),
            importance=kind(group_reduction="mean"),
            global_pruning=is_global,
            pruning_ratio=neurons,
            head_pruning_ratio=heads,
            num_heads=num_heads,
            out_channel_groups={},  # its default is one dict that all pruners share
            in_channel_groups={},
            prune_num_heads=True,
            prune_head_dims=False,
            round_to=NEURON_MULTIPLE,
            ignored_layers=[m for m in task.model.modules() if _is_layer(m) and m not in units],
            output_transform=lambda output: output.logits.sum(),
        )
        removed = _read_removed(pruner.step(interactive=True))
    return tuple(_read_layer(task, number, removed) for number in range(_count_layers(task)))


def _load_package() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("Torch-Pruning", "bench") from error
    return torch_pruning


def _list_heads(task: ScoringTask) -> dict[nn.Module, int]:
    """Return the package's `num_heads`: of each query, key and value projection."""
    return {
        module: site.dims.num_heads if "query" in projection.parts else site.dims.num_kv_heads
        for site in task.sites.values()
        if site.sub_block.part != "mlp"
        for projection, module in site.inputs
    }


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm)


def _example(task: ScoringTask) -> dict[str, torch.Tensor]:
    """Return two short rows to trace the model by."""
    batch = task.batches[0]
    rows = {name: tensor[:2, :8] for name, tensor in batch.items() if tensor.dim() == 2}
    return rows if task.model.config.is_encoder_decoder else {**rows, "labels": None}


@contextlib.contextmanager
def _trace(model: hf.PreTrainedModel) -> Iterator[None]:
    """Hide T5's table of position biases, in place, until the block ends.

    All layers add the bias that the first one makes, head by head. The package would tie the heads
    of all layers together by it, and has no way to cut each layer's part of it.
    """
    tables = [m for m in model.modules() if getattr(m, "has_relative_attention_bias", False)]
    for table in tables:
        table.has_relative_attention_bias = False
    try:
        yield
    finally:
        for table in tables:
            table.has_relative_attention_bias = True


def _read_removed(groups: Any) -> dict[nn.Module, set[int]]:
    """Return the rows that go, of each linear map."""
    removed: dict[nn.Module, set[int]] = {}
    for group in groups:
        for dependency, rows in group:
            if "out" in dependency.handler.__name__:
                removed.setdefault(dependency.target.module, set()).update(rows)
    return removed


def _count_layers(task: ScoringTask) -> int:
    return 1 + max(sub_block.layer for sub_block in task.sites)


def _read_layer(task: ScoringTask, number: int, removed: dict[nn.Module, set[int]]) -> LayerPlan:
    def keep(part: Any) -> tuple[int, ...] | None:
        site = task.sites.get(SubBlock(number, part))
        return None if site is None else _list_kept(site, removed)

    mlp, heads = keep("mlp"), keep("attention")
    return LayerPlan(kept_heads=heads, kept_neurons=mlp, kept_cross_heads=keep("cross_attention"))


def _list_kept(site: Site, removed: dict[nn.Module, set[int]]) -> tuple[int, ...]:
    """Return the neurons or query heads of which rows are left, which must be all of a head's."""
    width = 1 if site.sub_block.part == "mlp" else site.dims.head_dim
    module = next(m for p, m in site.inputs if p.parts[0] in ("query", "neuron"))
    gone = removed.get(module, set())
    total = site.dims.intermediate_size if width == 1 else site.dims.num_heads
    lost = [sum(unit * width + i in gone for i in range(width)) for unit in range(total)]
    if sum(lost) != len(gone) or any(count not in (0, width) for count in lost):
        raise NirvanaError(
            f"It removes rows {min(gone)} to {max(gone)} of the {total * width} of "
            f"{site.sub_block.name}, which are not whole heads of {width}."
        )
    return tuple(unit for unit, count in enumerate(lost) if count == 0)


def _describe_failure(budget: float, failures: list[str]) -> str:
    first = f" It fails: {failures[0]}" if failures else ""
    return f"None of its ratios leaves at most {budget} of the blocks' parameters.{first}"


def _count_failures(failures: list[str]) -> str:
    return f"failed at {len(failures)} of the ratios tried: {failures[0]}" if failures else ""
