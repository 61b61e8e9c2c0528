"""From a fine-tuned baseline to a pruned checkpoint: learn, finalise, repack, prove, save."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed

from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.checkpoints.model_source import load_model, load_stock_model
from pruning.cutting.repack import read_dense, repack
from pruning.gates.attach_gates import attach_gates, cost_of, finish_gates
from pruning.gates.one_shot_start import draw_start_batches
from pruning.gates.projection import find_unit_cost
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.oneshot.fidelity import prove_equal
from pruning.oneshot.oneshot_config import Pricing
from pruning.oneshot.oneshot_figures import describe_latency
from pruning.plans.plan import PruningPlan
from pruning.plans.plan_figures import describe_budget, describe_layers, describe_size
from pruning.strict_json import JsonObject
from pruning.tasks.data_config import DataConfig
from pruning.tasks.evaluation import evaluate_text
from pruning.tasks.task import Task
from pruning.tasks.tasks import check_head, recognise_task, settle_padding
from pruning.tasks.text_data import LabelledText, collate, load_text
from pruning.training.distillation import Distillation
from pruning.training.resumable_training import find_whole_checkpoint, make_trainer, train_resumably


def learn_gates(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    text: LabelledText,
    tokenizer: PreTrainedTokenizerBase,
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


def run_prune(
    baseline: Path,
    data: DataConfig,
    config: PruneConfig,
    out_dir: Path,
    pricing: Pricing | None = None,
) -> dict[str, object]:
    """Prune the fine-tuned model in `baseline` to the budget, into `out_dir/checkpoint`.

    Called again with the same `out_dir`, it continues from its last whole checkpoint. With
    `pricing` the budget is a fraction of what that counts, in place of `config.cost`.

    Raises:
        NirvanaError: the model cannot be pruned or was pruned before, the budget is out of reach,
            or the repacked model is not what was trained.
    """
    started = time.monotonic()
    skeleton = build_skeleton(str(baseline))
    read_dense(skeleton)
    tokenizer = load_stock_model(AutoTokenizer, str(baseline))
    text = load_text(data, tokenizer, recognise_task(skeleton), skeleton)
    check_head(text.task, skeleton, fine_tuned=True)
    model = load_model(text.task.auto_class, str(baseline))
    teacher = load_model(text.task.auto_class, str(baseline))
    for each in (model, teacher):
        settle_padding(text.task, each, tokenizer)
    callback, trainer = learn_gates(
        model, teacher, text, tokenizer, config, out_dir / "trainer", data, pricing
    )
    device = model.device
    batch = collate(tokenizer, list(text.validation.select(range(min(8, len(text.validation))))))
    plan, loaded, proofs = _finalise(model, callback, batch, tokenizer, text.task, out_dir)
    whole = PruningPlan.dense(plan.dims, plan.config_hash)
    dense_scores = evaluate_text(teacher.to(device), text, tokenizer)
    cost = cost_of(config, pricing)
    unit_cost = find_unit_cost(plan.dims, cost, config.constraints, config.units)
    return {
        "task": text.task.name,
        "metric": text.task.metric,
        "scores": list(dense_scores),
        "budget": describe_budget(plan, cost, config.budget, unit_cost, config.sequence_length),
        **({} if pricing is None else {"latency": describe_latency(plan, pricing)}),
        "dense": {
            **dense_scores,
            **describe_size(teacher, whole, config.sequence_length),
        },
        "pruned": {
            **evaluate_text(loaded.to(device), text, tokenizer),
            **describe_size(loaded, plan, config.sequence_length),
        },
        "num_pruning_stages": config.schedule.num_stages,
        "proofs": proofs,
        "undecided_fraction": callback.undecided_fraction,
        "collapsed": callback.collapse.to_json(),
        "held_out_losses": None if callback.canary is None else callback.canary.to_json(),
        "objective": plan.made_by["objective"],
        "layers": describe_layers(plan),
        "curve": _read_curve(trainer.state.log_history),
        "validations": _read_validations(trainer.state.log_history, text.task, callback),
        "train_seconds": time.monotonic() - started,
    }


def _finalise(
    model: Any,
    callback: PruningCallback,
    batch: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    out_dir: Path,
) -> tuple[PruningPlan, Any, list[dict[str, object]]]:
    """Repack the trained model and save it; prove both steps on `batch`.

    Returns the plan, the checkpoint loaded again, and what the proofs found.
    """
    model.to("cpu")  # a GPU adds fp32 in another order for another size: no ground for a proof
    masked_logits = _compute_logits(model, batch, task)
    plan = finish_gates(model, callback)
    smaller = repack(model, plan)
    smaller_logits = _compute_logits(smaller, batch, task)
    num_rows = len(batch["input_ids"])
    dtype = smaller.dtype
    proofs = [prove_equal("repacked", "masked", smaller_logits, masked_logits, num_rows, dtype)]
    save_pruned(smaller, out_dir / "checkpoint", tokenizer)
    plan.save(out_dir / "plan.json")
    loaded = load_pruned(out_dir / "checkpoint")
    loaded_logits = _compute_logits(loaded, batch, task)
    proofs.append(prove_equal("loaded", "saved", loaded_logits, smaller_logits, num_rows, dtype))
    return plan, loaded, proofs


@torch.no_grad()
def _compute_logits(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], task: Task
) -> dict[str, torch.Tensor]:
    """Return all numbers that the head gives for what is not padding, by the output's name.

    The labels go with the inputs: encoder-decoders make their decoder's input of them.
    """
    outputs = model.eval()(**{key: value.to(model.device) for key, value in batch.items()})
    live_BS = batch["attention_mask"].to(model.device).bool()
    found = {name: cast(torch.Tensor, outputs[name]) for name in task.outputs}
    return {name: part[live_BS] if task.reads_tokens else part for name, part in found.items()}


def _read_curve(history: list[JsonObject]) -> list[dict[str, object]]:
    keys = ("step", "loss", "target_kept_fraction", "kept_fraction", "undecided_fraction")
    return [{key: entry[key] for key in keys} for entry in history if "loss" in entry]


def _read_validations(
    history: list[JsonObject], task: Task, callback: PruningCallback
) -> list[JsonObject]:
    """Return each stage's validation: its loss, and the task's metric where it was measured."""
    keys = ("step", "pruning_stage", "target_kept_fraction", "kept_fraction")
    measured = f"eval_{task.metric}"
    return [
        {
            **{key: entry[key] for key in keys},
            **({task.metric: entry[measured]} if measured in entry else {}),
            "loss": entry["eval_loss"],
        }
        for entry in history
        if "eval_loss" in entry and callback.scheduler.ends_stage(entry["step"])
    ]
