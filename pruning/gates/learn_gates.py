"""Second and third stage: learn the gates with the task, in steps, each validated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, set_seed

from pruning.checkpoints.dense_source import read_dense
from pruning.gates.fisher import score_fisher
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.projection import Limits, check_reachable
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.gates.warm_start import warm_start
from pruning.plans.cost import make_cost_model
from pruning.training.distillation import Distillation
from pruning.training.resumable_training import find_whole_checkpoint, make_trainer, train_resumably
from pruning.training.text_data import LabelledText, collate


def learn_gates(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    text: LabelledText,
    tokenizer: Any,
    config: PruneConfig,
    work_dir: Path,
) -> tuple[GateRegistry, PruningCallback, Trainer]:
    """Train `model` and its gates in place until the budget is met; leave the gates attached.

    `work_dir` holds the resumable checkpoints.

    Raises:
        NirvanaError: before any training, for a model that was pruned before, or a budget that
            cannot be reached.
    """
    set_seed(config.seed)
    cost = make_cost_model(config.cost, config.sequence_length)
    limits = Limits(neuron_multiple=config.neuron_multiple)
    check_reachable(read_dense(model).dims, cost, config.budget, limits)
    registry = GateRegistry.attach(model, cost)
    if config.warm_start_rows and find_whole_checkpoint(work_dir) is None:
        batches = _batches(text, tokenizer, config.warm_start_rows, config.batch_size)
        warm_start(registry, score_fisher(model, registry, batches))
    teaching = Distillation(teacher, config.distillation).attach(model)
    callback = PruningCallback(registry, config)
    trainer = make_trainer(model, text, tokenizer, config, work_dir, [callback], "prune")
    train_resumably(trainer)
    teaching.remove()
    return registry, callback, trainer


def _batches(
    text: LabelledText, tokenizer: Any, num_rows: int, batch_size: int
) -> Iterator[dict[str, torch.Tensor]]:
    rows = text.train.select(range(min(num_rows, len(text.train))))
    for start in range(0, len(rows), batch_size):
        part = rows.select(range(start, min(start + batch_size, len(rows))))
        yield collate(tokenizer, list(part))
