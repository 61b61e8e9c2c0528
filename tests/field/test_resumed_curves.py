"""The loss curve of a training that was killed and resumed is the uninterrupted one's."""

from pathlib import Path

import pytest
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from pruning.gates.attach_gates import attach_gates
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.plans.cost import MacCost
from pruning.tasks.text_data import collate, load_text
from pruning.training.resumable_training import make_trainer, train_resumably
from pruning.training.training_configs import BaselineConfig
from tests.pruning.training.tiny_tasks import make_headed, make_tokenizer, write_rows

# Logs come every 5 steps; checkpoints between them.
SAVE_STEPS = 3


class KilledError(Exception):
    """What ends a training in the middle."""


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KilledError


def read_curve(trainer: Trainer) -> list[dict[str, float]]:
    keys = ("step", "loss", "eval_loss", "kept_fraction")
    return [{k: e[k] for k in keys if k in e} for e in trainer.state.log_history[:-1]]


def train_stage(gates: bool, folder: Path, out_dir: Path, kill_at: int) -> Trainer:
    tokenizer = make_tokenizer(folder / "tokenizer")
    text = load_text(write_rows(folder / "rows", "classification"), tokenizer)
    set_seed(3)
    model = make_headed("classification")
    settings: PruneConfig | BaselineConfig
    callbacks: list[TrainerCallback] = [KillAt(kill_at)]
    if gates:
        settings = PruneConfig(num_epochs=4, batch_size=8, save_steps=SAVE_STEPS, bf16=False)
        registry = GateRegistry.attach(model, MacCost(16))
        callbacks.insert(0, PruningCallback(registry, settings))
    else:
        settings = BaselineConfig(num_epochs=4, batch_size=8, save_steps=SAVE_STEPS, bf16=False)
    trainer = make_trainer(model, text, tokenizer, settings, out_dir, callbacks, "training")
    train_resumably(trainer)
    return trainer


def train_own(join: bool, folder: Path, out_dir: Path, kill_at: int) -> Trainer:
    """A Trainer of the user's own, whose checkpoints are written at the ends of epochs."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    text = load_text(write_rows(folder / "rows", "classification"), tokenizer)
    set_seed(3)
    model = make_headed("classification")
    config = PruneConfig(warm_start=None, sequence_length=16)
    callback = attach_gates(model, config)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out_dir),
            num_train_epochs=4,
            per_device_train_batch_size=8,
            logging_steps=5,
            save_strategy="epoch",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=lambda rows: collate(tokenizer, rows),
        callbacks=[KillAt(kill_at)] if join else [callback, KillAt(kill_at)],
    )
    if join:
        callback.join(trainer)
    trainer.train(resume_from_checkpoint=any(out_dir.glob("checkpoint-*")) or None)
    return trainer


@pytest.mark.parametrize(
    ("train", "kind"),
    [(train_stage, False), (train_stage, True), (train_own, False), (train_own, True)],
    ids=["baseline", "gates", "callback", "joined-callback"],
)
def test_a_resumed_curve_is_the_uninterrupted_one(train, kind: bool, tmp_path: Path) -> None:
    whole = read_curve(train(kind, tmp_path / "data", tmp_path / "whole", -1))
    assert len([entry for entry in whole if "loss" in entry]) > 2
    with pytest.raises(KilledError):
        train(kind, tmp_path / "data", tmp_path / "out", 7)
    assert read_curve(train(kind, tmp_path / "data", tmp_path / "out", -1)) == whole
