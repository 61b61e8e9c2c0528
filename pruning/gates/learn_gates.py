"""Second and third stage: learn the gates with the task, in steps, each validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer, set_seed

from pruning.gates.attach_gates import attach_gates
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.gates.start_scores import draw_start_batches
from pruning.oneshot.pricing import Pricing
from pruning.training.data_config import DataConfig
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
    data: DataConfig | None = None,
    pricing: Pricing | None = None,
) -> tuple[PruningCallback, Trainer]:
    """Train `model` and its gates in place until the budget is met; leave the gates attached.

    `work_dir` holds the resumable checkpoints, and `data` is compared when one is resumed.
    With `pricing` the budget is a fraction of what that counts.

    Raises:
        NirvanaError: before any training, for a model that was pruned before, a budget that cannot
            be reached, or another recipe than that of the checkpoint in `work_dir`; in it, for a
            loss that is no number, or a held-out loss that rose too far.
    """
    set_seed(config.seed)
    batches, resumes = None, find_whole_checkpoint(work_dir) is not None
    if config.starts_from_data and not resumes:
        num_rows, batch_size = config.warm_start_rows, config.batch_size
        batches = draw_start_batches(text, tokenizer, num_rows, batch_size)
    callback = attach_gates(
        model, config, batches=batches, data=data, resumes=resumes, pricing=pricing
    )
    teaching = Distillation(teacher, config.distillation).attach(model)
    try:
        trainer = make_trainer(model, text, tokenizer, config, work_dir, [callback], "prune")
        train_resumably(trainer)
    finally:
        teaching.remove()
    return callback, trainer
