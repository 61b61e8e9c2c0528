"""Fine-tuning that is the same for every method."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers as hf
from datasets import Dataset
from method_models import Example, make_examples, read_rows
from method_subjects import Pruned, Subject

from pruning.tasks.tasks import TASKS
from pruning.tasks.text_data import LabelledText
from pruning.training.distillation import Distillation
from pruning.training.resumable_training import TrainingSettings, make_trainer, train_resumably
from pruning.training.training_configs import BaselineConfig, DistillationConfig

TRAINING = (
    "transformers.Trainer: AdamW with weight decay 0.01, 6 % of warm-up, then a linear fall; for a "
    "seed the same rows in the same order; loss 0.1 * task + 0.9 * T^2 * KL(dense || pruned), T = 2"
)
_NUM_VALIDATION = 64  # rows that gates look at after each of their stages
NEVER = 10**9  # steps between checkpoints: a cell is run again rather than resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one model is trained: rows a step, peak learning rate, its task."""

    batch_size: int
    learning_rate: float
    task: str


RECIPES = {
    "encoder": Recipe(batch_size=16, learning_rate=5e-5, task="classification"),
    "decoder": Recipe(batch_size=8, learning_rate=6e-4, task="causal-lm"),
    "seq2seq": Recipe(batch_size=10, learning_rate=6e-4, task="seq2seq"),
}


def fine_tune(subject: Subject, pruned: Pruned, seed: int, steps: int) -> None:
    """Train what a method left, in place, for exactly `steps` steps."""
    recipe = RECIPES[subject.name]
    settings = BaselineConfig(
        num_epochs=1.0,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        seed=seed,
        bf16=False,
        save_steps=NEVER,
    )
    train(subject, pruned.model, settings, seed, steps, [])


def train(
    subject: Subject,
    model: hf.PreTrainedModel,
    settings: TrainingSettings,
    seed: int,
    steps: int,
    callbacks: list[hf.TrainerCallback],
) -> None:
    """Train a model, in place, with the dense one as its teacher."""
    teaching = Distillation(copy.deepcopy(subject.model), DistillationConfig()).attach(model)
    text = read_text(subject, seed, steps)
    hf.set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model, text, subject.tokenizer, settings, Path(folder), callbacks, "train"
        )
        trainer.args.save_strategy = "no"
        train_resumably(trainer)
    teaching.remove()


def read_text(subject: Subject, seed: int, steps: int) -> LabelledText:
    """Return the rows of `steps` steps, drawn by the seed, and a few of validation."""
    recipe = RECIPES[subject.name]
    train = _draw(subject, "train", seed, steps * recipe.batch_size)
    validation = _draw(subject, "validation", 0, _NUM_VALIDATION)
    labels = tuple(subject.model.config.id2label.values()) if subject.name == "encoder" else ()
    return LabelledText(
        train=Dataset.from_list(train),
        validation=Dataset.from_list(validation),
        labels=labels,
        task=TASKS[recipe.task],
    )


def _draw(subject: Subject, split: str, seed: int, count: int) -> list[Example]:
    """Return `count` examples; where there are fewer rows they come again."""
    rows = [row for row in read_rows(split) if subject.name != "encoder" or row["label"] >= 0]
    order = np.random.default_rng(seed).permutation(len(rows))
    found: list[Example] = []
    while len(found) < count:
        for start in range(0, len(order), 2 * count):
            part = [rows[i] for i in order[start : start + 2 * count]]
            found += make_examples(subject.name, subject.tokenizer, part)
            if len(found) >= count:
                break
    return [{**e, "attention_mask": [1] * len(e["input_ids"])} for e in found[:count]]
