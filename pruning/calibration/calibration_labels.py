"""Labels for calibration rows: the documents' own where they are given, else its predictions.

Label-free saliencies do not look at them; Taylor and Fisher take the loss against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.calibration.calibration_rows import Row
from pruning.errors import NirvanaError
from pruning.scoring.block_walk import Batch
from pruning.scoring.model_passes import leave_as_found
from pruning.tasks.class_names import number_classes
from pruning.tasks.collation import hide_tokens
from pruning.tasks.task import IGNORED
from pruning.tasks.text_data import name_model_classes

# B rows, S tokens, T tokens of the target.

Labels = dict[str, torch.Tensor]
LabelOrigin = Literal["text", "given", "predicted"]


def label_groups(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[list[Row]],
    task: str,
    generator: torch.Generator,
    label_column: str | None = None,
) -> tuple[tuple[Batch, ...], LabelOrigin]:
    """Make a labelled batch of each group of equally long rows; say where the labels come from.

    `generator` decides which tokens a masked language model has to guess. With `label_column`, of
    which the user says that it holds the classes, they must be the model's.

    Raises:
        NirvanaError: a classifier does not choose one of several classes, its classes are not those
            of `label_column`, or the tokenizer has no mask token where one is needed.
    """
    label, origin = _choose_labels(model, tokenizer, groups, task, generator, label_column)
    with leave_as_found(model), torch.no_grad():
        return tuple({**_stack(rows), **label(rows)} for rows in groups), origin


def _choose_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[list[Row]],
    task: str,
    generator: torch.Generator,
    label_column: str | None,
) -> tuple[Callable[[list[Row]], Labels], LabelOrigin]:
    if task == "seq2seq":
        return _take_targets, "text"
    if task == "masked-lm":
        return partial(_hide, tokenizer, generator), "text"
    if task == "token-classification":
        return partial(_predict_tags, model), "predicted"
    if task == "question-answering":
        return partial(_predict_span, model), "predicted"
    _require_single_choice(model)
    if label_column is not None:
        used = {str(row.label) for rows in groups for row in rows}
        names = name_model_classes(model)
        found = number_classes(used, (), model=names, column=label_column)
        return partial(_number, found.numbers), "given"
    numbers = {str(name): int(i) for name, i in (model.config.label2id or {}).items()}
    if all(row.label in numbers for rows in groups for row in rows):
        return partial(_number, numbers), "given"
    return partial(_predict_class, model), "predicted"


def _require_single_choice(model: PreTrainedModel) -> None:
    config: Any = model.config
    kind = config.problem_type or "single_label_classification"
    if config.num_labels < 2 or kind != "single_label_classification":
        raise NirvanaError(
            f"Calibration needs a classifier that chooses one of two or more classes; this "
            f"{type(model).__name__} has num_labels {config.num_labels} and problem_type "
            f"{config.problem_type!r}. Cut it by a plan of your own: `nirvana prune MODEL --plan "
            "FILE`."
        )


def _stack(rows: list[Row]) -> Labels:
    ids_BS = torch.tensor([row.input_ids for row in rows])
    return {"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)}


def _take_targets(rows: list[Row]) -> Labels:
    return {"labels": torch.tensor([row.target_ids for row in rows])}


def _hide(
    tokenizer: PreTrainedTokenizerBase, generator: torch.Generator, rows: list[Row]
) -> Labels:
    special_BS = torch.tensor([row.special for row in rows])
    ids_BS, labels_BS = hide_tokens(_stack(rows)["input_ids"], special_BS, tokenizer, generator)
    return {"input_ids": ids_BS, "labels": labels_BS}


def _number(numbers: Mapping[str, int], rows: list[Row]) -> Labels:
    return {"labels": torch.tensor([numbers[str(row.label)] for row in rows])}


def _predict_class(model: PreTrainedModel, rows: list[Row]) -> Labels:
    return {"labels": _run(model, rows).logits.argmax(-1).cpu()}


def _predict_tags(model: PreTrainedModel, rows: list[Row]) -> Labels:
    """Special tokens have no tag: fine-tuning does not count them either."""
    special_BS = torch.tensor([row.special for row in rows]).bool()
    return {"labels": _run(model, rows).logits.argmax(-1).cpu().masked_fill(special_BS, IGNORED)}


def _predict_span(model: PreTrainedModel, rows: list[Row]) -> Labels:
    output = _run(model, rows)
    return {
        "start_positions": output.start_logits.argmax(-1).cpu(),
        "end_positions": output.end_logits.argmax(-1).cpu(),
    }


def _run(model: PreTrainedModel, rows: list[Row]) -> Any:
    return model(**{name: tensor.to(model.device) for name, tensor in _stack(rows).items()})
