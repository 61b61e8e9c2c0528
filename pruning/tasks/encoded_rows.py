"""What every task makes of its raw rows: tokens and labels, ready to be batched."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset

IGNORED = -100  # torch's and transformers' default `ignore_index`


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRows:
    """Tokenised rows of one task.

    Attributes:
        labels: the classes' names, none where the task has no classes.
        bytes_per_token: UTF-8 bytes of the validation text for each of its tokens; for tasks that
            predict every token.
    """

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...] = ()
    bytes_per_token: float | None = None
