"""The tasks that can be trained and scored, and which of them a model or a data set is for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pruning.checkpoints.prunable_model import find_stock_class
from pruning.errors import NirvanaError
from pruning.tasks.answer_rows import encode_answers
from pruning.tasks.class_rows import encode_classes, encode_tags
from pruning.tasks.data_config import DataConfig, find_column
from pruning.tasks.language_rows import encode_targets, mask_texts, pack_texts
from pruning.tasks.metrics import score_classes, score_spans, score_tags
from pruning.tasks.task import Outputs, Task


def _take_logits(outputs: Outputs) -> torch.Tensor:
    return outputs[0]


def _take_classes(outputs: Outputs) -> torch.Tensor:
    return outputs[0].argmax(-1)


def _take_span(outputs: Outputs) -> torch.Tensor:
    """Return the likeliest first and the likeliest last token, each for itself: [rows, 2]."""
    return torch.stack([outputs[0].argmax(-1), outputs[1].argmax(-1)], dim=-1)


_LANGUAGE: dict[str, Any] = {
    "metric": "perplexity",
    "higher_is_better": False,
    "predict": _take_classes,
    "trains_head": False,
    "per_token": True,
    "evaluation_batch_size": 8,  # logits are [rows, tokens, vocabulary]
}
_TASKS = (
    Task(
        name="classification",
        auto_class=AutoModelForSequenceClassification,
        columns=("text_column", "label_column"),
        encode=encode_classes,
        metric="accuracy",
        higher_is_better=True,
        predict=_take_logits,
        score=score_classes,
        has_classes=True,
    ),
    Task(
        name="token-classification",
        auto_class=AutoModelForTokenClassification,
        columns=("tokens_column", "tags_column"),
        encode=encode_tags,
        metric="macro_f1",  # most tokens are in no entity: a constant guess is accurate
        higher_is_better=True,
        predict=_take_classes,
        score=score_tags,
        has_classes=True,
        per_token=True,
    ),
    Task(
        name="question-answering",
        auto_class=AutoModelForQuestionAnswering,
        columns=("question_column", "context_column", "answers_column"),
        encode=encode_answers,
        metric="f1",
        higher_is_better=True,
        predict=_take_span,
        score=score_spans,
        outputs=("start_logits", "end_logits"),
        label_columns=("start_positions", "end_positions"),
        head_size=2,
    ),
    # Before masked-lm: transformers lists BART's class under both.
    Task(
        name="seq2seq",
        auto_class=AutoModelForSeq2SeqLM,
        columns=("text_column", "target_column"),
        encode=encode_targets,
        writes=True,
        **{**_LANGUAGE, "metric": "rouge_l", "higher_is_better": True},
    ),
    Task(
        name="masked-lm",
        auto_class=AutoModelForMaskedLM,
        columns=("text_column",),
        encode=mask_texts,
        **_LANGUAGE,
    ),
    Task(
        name="causal-lm",
        auto_class=AutoModelForCausalLM,
        columns=("text_column",),
        encode=pack_texts,
        shifted=True,
        **_LANGUAGE,
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def find_task(model: PreTrainedModel) -> Task:
    """Return the task that a model's head is for; dense or pruned, with or without weights.

    Raises:
        NirvanaError: it has no head, or one for something else.
    """
    task = recognise_task(model)
    if task is None:
        raise NirvanaError(
            f"Expected a model with a head for {', '.join(TASKS)}; {_class_name(model)} has none "
            "of these. Load it by transformers' AutoModelFor... class of its task."
        )
    return task


def recognise_task(model: PreTrainedModel) -> Task | None:
    """Return the task that a model's head is for, None where it has none of ours."""
    stock = find_stock_class(model)
    return next((task for task in _TASKS if stock in _classes(task, model.config)), None)


def recognise_head(config: PretrainedConfig) -> Task | None:
    """Return the task of the head that a config names, None where it is none of ours."""
    name = next(iter(getattr(config, "architectures", None) or ()), "").removeprefix("Pruned")
    return next(
        (task for task in _TASKS if name in [c.__name__ for c in _classes(task, config)]), None
    )


def choose_task(config: DataConfig, columns: Collection[str], own: Task | None) -> Task:
    """Return the task that `config` names; else classification where there are classes, else `own`.

    `columns` are those of the data set, `own` is the task of the model's head.
    """
    if config.task is not None:
        return TASKS[config.task]
    label = find_column(config, "label_column", columns)
    if own is not None and (not label or label not in columns):
        return own
    return TASKS["classification"]


def check_head(task: Task, model: PreTrainedModel, *, fine_tuned: bool) -> None:
    """Refuse a model that does not fit `task`; it may be on the meta device.

    With `fine_tuned` the model must have the task's head already; else a fresh head will do for a
    task that trains one.

    Raises:
        NirvanaError: it does not fit.
    """
    own = recognise_task(model)
    model_type = model.config.model_type
    able = [t.name for t in _TASKS if _classes(t, model.config)]
    if task.name not in able:
        raise NirvanaError(
            f"transformers has no head for {task.name} on {model_type}; it has those for "
            f"{', '.join(able) or 'none of our tasks'}. Set data.task, or take another model."
        )
    if fine_tuned and own is not task:
        raise NirvanaError(
            f"Expected a model that was fine-tuned for {task.name}, this is a "
            f"{_class_name(model)}, {_describe(own)}. Fine-tune it first (without fine_tuned), or "
            "set data.task."
        )
    if fine_tuned:
        check_kind(task, model.config)
    if task.trains_head:
        return
    # Without any head, it is the one that models of its type are trained with.
    native = own or next(t for t in _TASKS if t.name in able and not t.trains_head)
    if native is not task:
        raise NirvanaError(
            f"Expected a model with a head for {task.name}, this is a {_class_name(model)}, "
            f"{_describe(own)}: one made new would know no language. Set data.task to what the "
            "model was trained for, or take another model."
        )


def check_kind(task: Task, config: PretrainedConfig) -> None:
    """Refuse the config of a fine-tuned classifier that does not choose one of several classes.

    Raises:
        NirvanaError: its head gives a number, or chooses several classes at once.
    """
    if task.name != "classification":
        return
    problem = getattr(config, "problem_type", None)
    kind = problem or "single_label_classification"
    num_labels = config.num_labels or 0
    if num_labels < 2 or kind != "single_label_classification":
        raise NirvanaError(
            f"Expected a classifier that chooses one of two or more classes, this "
            f"{config.model_type} has num_labels {num_labels} and problem_type {problem!r}."
            " Fine-tune it on this data first (without fine_tuned), or "
            "cut it by a plan of your own: `nirvana prune MODEL --plan FILE`."
        )


def settle_padding(task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the config of a decoder's classifier the tokenizer's pad token, in place.

    Such a classifier reads the last token that is no padding, and takes single rows only without.

    Raises:
        NirvanaError: neither has a pad token.
    """
    config: PretrainedConfig = model.config
    if task.name != "classification" or getattr(config, "pad_token_id", None) is not None:
        return
    if tokenizer.pad_token_id is None:
        raise NirvanaError(
            f"{_class_name(model)} classifies rows by their last token that is no padding, and "
            "neither its config (pad_token_id) nor its tokenizer (pad_token) names a pad token. "
            "Set one of them and save the model again."
        )
    config.pad_token_id = tokenizer.pad_token_id


def _classes(task: Task, config: PretrainedConfig) -> tuple[type, ...]:
    try:
        found = task.auto_class._model_mapping[type(config)]
    except KeyError:
        return ()
    return found if isinstance(found, tuple) else (found,)


def _class_name(model: PreTrainedModel) -> str:
    return str(find_stock_class(model).__name__)


def _describe(own: Task | None) -> str:
    return "which has no such head" if own is None else f"whose head is for {own.name}"
