"""Second and third stage: learn the gates with the task, in steps, each validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer, set_seed

from pruning.checkpoints.dense_source import read_dense
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.projection import check_projectable
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.gates.start_scores import draw_start_batches, score_start
from pruning.gates.warm_start import warm_start
from pruning.plans.cost import make_cost_model
from pruning.training.distillation import Distillation
from pruning.training.resumable_training import find_whole_checkpoint, make_trainer, train_resumably
from pruning.training.text_data import LabelledText


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
    dims = read_dense(model).dims
    check_projectable(dims, cost, config.budget, config.constraints, config.units)
    scores = None
    is_new = find_whole_checkpoint(work_dir) is None
    if is_new and config.warm_start is not None and config.warm_start_rows:
        num_rows, batch_size = config.warm_start_rows, config.batch_size
        batches = draw_start_batches(text, tokenizer, num_rows, batch_size)
        scores = score_start(model, config.warm_start, batches)
    registry = GateRegistry.attach(model, cost, config.gate_kind, config.units)
    if scores is not None:
        warm_start(registry, scores)
    teaching = Distillation(teacher, config.distillation).attach(model)
    callback = PruningCallback(registry, config)
    trainer = make_trainer(model, text, tokenizer, config, work_dir, [callback], "prune")
    train_resumably(trainer)
    teaching.remove()
    return registry, callback, trainer
