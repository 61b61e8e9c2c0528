"""The Torch-Pruning package itself (VainF, https://github.com/VainF/Torch-Pruning) as a peer.

    pip install 'nirvana-deploy[bench]'

Its own pruner scores, ranks, thresholds and rounds, set up as in its examples for BERT and LLMs:
`num_heads`, `prune_num_heads`, no pruned head dimensions, groups' mean of L2 norms or Taylor terms.
The hidden size is ignored, so that it cuts the units that all methods here cut. What it chooses is
read off its pruning groups, and cut by `repack`.

As it is (1.6.1) it cuts no heads of the decoder and few of T5. It gets help, and the notes say so:
- Rotary embeddings are hidden while it traces: their halves send its index mapping in circles.
- T5's table of position biases is hidden likewise: it ties the heads of all layers together.
- With grouped queries KV groups are declared as its heads. Its own way to thin the query heads of
  a group gives up when a group of two loses one, since it then takes the model for ungrouped.
- Its check against emptying a layer counts a key's row once for each of its query heads; here once.
"""

from __future__ import annotations

import contextlib
import copy
import sys
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
from pruning.scoring.model_passes import read_loss
from pruning.scoring.saliency import ScoringTask
from pruning.wirings.sites import Site

_GRID = 40  # ratios that are tried, before the rest of the budget goes to neurons
_HALVINGS = 10
_MOST = 0.99  # of the neurons, where heads alone do not do

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
    notes = "; ".join(filter(None, [_describe_help(task), note]))
    return Pruned(subject.cut(subject.model, layers).model, layers, notes)


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
    note, high = "", next((r for r in ratios if keep(r, r)[0] <= budget), None)
    if high is None:
        # Beyond some ratio it leaves an attention whole rather than empty: cut neurons instead.
        heads, high = _search_heads(ratios, lambda ratio: keep(ratio, _MOST)[0] <= budget), _MOST
        if heads is None:
            raise NirvanaError(_describe_failure(budget, failures))
        note = f"one ratio for heads and neurons cannot meet the budget; that of heads is {heads}"
    else:
        heads = high
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


def _search_heads(ratios: list[float], fits: Callable[[float], bool]) -> float | None:
    """Return the largest ratio that fits, None where none does."""
    return next((ratio for ratio in reversed(ratios) if fits(ratio)), None)


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
    with _hide_positions(task.model):
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
    pruner.DG.check_pruning_group = partial(_leaves_some, pruner.DG)
    removed = _read_removed(pruner.step(interactive=True))
    return tuple(_read_layer(task, number, removed) for number in range(_count_layers(task)))


def _load_package() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("Torch-Pruning", "bench") from error
    return torch_pruning


def _list_heads(task: ScoringTask) -> dict[nn.Module, int]:
    """Return the package's `num_heads`: of each query, key and value projection its KV groups."""
    return {
        module: site.num_units
        for site in task.sites.values()
        if site.sub_block.part != "mlp"
        for _, module in site.inputs
    }


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm)


def _example(task: ScoringTask) -> dict[str, torch.Tensor]:
    """Return two short rows to trace the model by."""
    batch = task.batches[0]
    rows = {name: tensor[:2, :8] for name, tensor in batch.items() if tensor.dim() == 2}
    return rows if task.model.config.is_encoder_decoder else {**rows, "labels": None}


@contextlib.contextmanager
def _hide_positions(model: hf.PreTrainedModel) -> Iterator[None]:
    """Run attention without rotary embeddings and position tables, in place, until the end."""
    tables = [m for m in model.modules() if getattr(m, "has_relative_attention_bias", False)]
    source = sys.modules[type(model).__module__]
    rotate = getattr(source, "apply_rotary_pos_emb", None)
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # it follows grouped queries through this one only
    for table in tables:
        table.has_relative_attention_bias = False
    if rotate is not None:
        source.apply_rotary_pos_emb = lambda query, key, *_, **__: (query, key)
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        for table in tables:
            table.has_relative_attention_bias = True
        if rotate is not None:
            source.apply_rotary_pos_emb = rotate


def _leaves_some(graph: Any, group: Any) -> bool:
    """Tell whether a group leaves something of each layer; a row that is listed twice goes once."""
    for dependency, rows in group:
        is_out = graph.is_out_channel_pruning_fn(dependency.handler)
        count = graph.get_out_channels if is_out else graph.get_in_channels
        channels = count(dependency.target.module)
        if channels is not None and channels <= len(set(rows)):
            return False
    return True


def _describe_help(task: ScoringTask) -> str:
    model = task.model
    stacks = {site.dims for site in task.sites.values()}
    helps = []
    if any(dims.heads_per_group > 1 for dims in stacks):
        helps.append("KV groups declared as heads, rows counted once")
    if any(getattr(m, "has_relative_attention_bias", False) for m in model.modules()):
        helps.append("position table hidden while tracing")
    if hasattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb"):
        helps.append("rotary embeddings hidden while tracing")
    return f"helped: {'; '.join(helps)}" if helps else ""


def _read_removed(groups: Any) -> dict[nn.Module, set[int]]:
    """Return the rows that go, of each linear map."""
    removed: dict[nn.Module, set[int]] = {}
    for group in groups:
        for dependency, rows in group:
            if "out_channels" in dependency.handler.__name__:
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
