"""Sees to it that gradient accumulation means the same for every model."""

from __future__ import annotations

import inspect
import re
from typing import Any

from transformers import PreTrainedModel

_PASSES_COUNT = re.compile(r"\bloss_function\((?:[^()]|\([^()]*\))*\*\*\w*kwargs")


def settle_loss_scale(model: PreTrainedModel) -> None:
    """Tell the Trainer, in place, whether the model's loss obeys `num_items_in_batch`.

    transformers 5 concludes so from `**kwargs` in `forward`, and then divides no loss by the number
    of accumulated batches. BERT, T5 and others take the argument and ignore it: their gradients,
    those of the gates among them, would grow with the number of batches. Call it before the Trainer
    is made.
    """
    obeys: Any = model
    obeys.accepts_loss_kwargs = passes_count(type(model))


def passes_count(model_class: type) -> bool:
    """Return whether a model's `forward` hands its further arguments on to the loss."""
    try:
        source = inspect.getsource(inspect.unwrap(model_class.forward))  # type: ignore[attr-defined]
    except (OSError, TypeError):  # made without a file: the Trainer's own division is right
        return False
    return _PASSES_COUNT.search(source) is not None
