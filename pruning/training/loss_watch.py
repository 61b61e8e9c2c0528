"""Stops a training at the first loss that is no number, and says where it was."""

from __future__ import annotations

import inspect
import re
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pruning.checkpoints.model_source import has_nan
from pruning.errors import NirvanaError
from pruning.training.recipe_guard import checkpoint_folder

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


ROW_COLUMN = "nirvana_row"
Batch = dict[str, torch.Tensor]


class RowCollator:
    """Collates rows, and remembers which rows the last batches were made of."""

    def __init__(
        self, collate: Callable[[list[dict[str, object]]], Batch], num_batches: int
    ) -> None:
        self._collate = collate
        self._last: deque[tuple[list[int], torch.Tensor]] = deque(maxlen=num_batches)

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Return the batch of `rows`."""
        batch = self._collate(rows)
        if ROW_COLUMN in rows[0]:
            self._last.append(([row[ROW_COLUMN] for row in rows], batch["input_ids"]))
        return batch

    def find_rows(self, input_ids: torch.Tensor) -> list[int] | None:
        """Return the numbers of the training rows that a batch of late was made of."""
        wanted = input_ids.cpu()
        return next((rows for rows, ids in self._last if torch.equal(ids.cpu(), wanted)), None)


class LossWatch(TrainerCallback):
    """Looks at the loss of every batch before anything is learned from it.

    The loss is what the model's forward pass returns: of a loss made outside the model nothing is
    seen here. A checkpoint with weights that are no numbers is refused too.
    """

    def __init__(self, collator: RowCollator | None = None) -> None:
        self._collator = collator
        self._handle: RemovableHandle | None = None
        self._num_batches = 0  # of the present step

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Begin to watch."""
        self.stop()

        def look(model: Any, _: object, inputs: dict[str, object], output: object) -> None:
            loss = output.get("loss") if isinstance(output, dict) else None
            if model.training and loss is not None:
                self._num_batches += 1
                if not bool(torch.isfinite(loss).all()):
                    raise NirvanaError(
                        self._explain(float(loss.detach()), inputs, output, args, state)
                    )

        model: Any = kwargs["model"]
        self._handle = model.register_forward_hook(look, with_kwargs=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count batches anew."""
        self._num_batches = 0

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Refuse weights that are no numbers: the step before this save broke them."""
        model: Any = kwargs["model"]
        bad = [name for name, tensor in model.named_parameters() if has_nan(_take_local(tensor))]
        if not bad:
            return
        if state.is_world_process_zero:  # it would be taken for the last good one
            shutil.rmtree(checkpoint_folder(args, state), ignore_errors=True)
        raise NirvanaError(
            f"Step {state.global_step} left NaN or infinity in {len(bad)} weights, the first is"
            f" {bad[0]}. {_advise(args, state.global_step)}"
        )

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Leave the model as it was."""
        self.stop()

    def stop(self) -> None:
        """Stop watching, also when the training was broken off."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _explain(
        self,
        loss: float,
        inputs: dict[str, Any],
        output: object,
        args: TrainingArguments,
        state: TrainerState,
    ) -> str:
        ids = inputs.get("input_ids")
        rows = None if ids is None or self._collator is None else self._collator.find_rows(ids)
        which = "" if rows is None else f", made of the training rows {_list(rows)}"
        bad = _find_bad_rows(output)
        if bad and rows is not None:
            which += f"; the logits are no numbers in those of row {_list([rows[i] for i in bad])}"
        elif bad:
            which += f"; the logits are no numbers in its rows {_list(bad)}, counted from 0"
        return (
            f"The loss became {loss} in step {state.global_step + 1}, batch {self._num_batches} of "
            f"that step{which}. {_advise(args, state.global_step + 1)}"
        )


def _take_local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a sharded tensor."""
    local: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _find_bad_rows(output: Any) -> list[int]:
    logits = output.get("logits")
    if logits is None:
        return []
    fine = torch.isfinite(logits.detach().float()).flatten(1).all(dim=1)
    return [int(i) for i in (~fine).nonzero().flatten()]


def _list(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:16])
    return f"{shown}, ..." if len(numbers) > 16 else shown


def _advise(args: TrainingArguments, before: int) -> str:
    """Name the newest checkpoint of a step before `before`, and what to do."""
    folder = Path(args.output_dir or ".")
    names = [path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")]
    good = [int(name) for name in names if name.isdigit() and int(name) < before]
    kept = (
        f"The last good checkpoint is {folder / f'checkpoint-{max(good)}'}."
        if good
        else "No checkpoint was saved before it."
    )
    return f"{kept} Lower the learning rate, or look at these rows, and run again."
