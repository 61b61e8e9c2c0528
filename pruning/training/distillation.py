"""Lets a fine-tuned dense model teach the pruned one, inside any training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pruning.tasks.task import IGNORED
from pruning.tasks.tasks import recognise_task
from pruning.training.hidden_states import HiddenStateMatch
from pruning.training.training_configs import DistillationConfig

# B batch, S sequence, C classes or words, P what is predicted: rows or tokens.


class Teaching:
    """A teacher at work; `remove` takes it off the student again, in place."""

    def __init__(self, handles: list[RemovableHandle], match: HiddenStateMatch | None) -> None:
        self._handles, self._match = handles, match

    def remove(self) -> None:
        """Leave the student as it was before `attach`, but for what it learned."""
        for handle in self._handles:
            handle.remove()
        if self._match is not None:
            self._match.detach()


class Distillation:
    """Mixes a teacher's soft labels into the loss that the student's forward pass returns.

    `loss = (1 - w) * task + w * T^2 * KL(teacher || student) + w_h * hidden` at temperature T. The
    divergence is the mean over what the task's loss counts: rows, or tokens with a label. `hidden`
    is the relative error of matched hidden states (`hidden_states.py`).

    Where the Trainer has one mean over several batches (gradient accumulation, several processes),
    it says so by `num_items_in_batch`, and all terms are shares of that mean.
    """

    def __init__(self, teacher: PreTrainedModel, config: DistillationConfig) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.config = config
        self._match: HiddenStateMatch | None = None
        self._shifted = False

    def attach(self, student: PreTrainedModel) -> Teaching:
        """Change what `student` returns as loss in training mode, in place.

        Call it before the Trainer is made: a learned projection is trained with the student.

        Raises:
            NirvanaError: hidden states of another size are to be matched without a projection.
        """
        task = recognise_task(student)
        self._shifted = task is not None and task.shifted
        handles = [student.register_forward_hook(self._mix, with_kwargs=True)]
        if self.config.hidden_weight:
            self._match = HiddenStateMatch(self.config, student, self.teacher)
            handles.append(student.register_forward_pre_hook(_ask_hidden, with_kwargs=True))
        return Teaching(handles, self._match)

    def _mix(self, student: Any, args: Any, kwargs: dict[str, Any], output: Any) -> object:
        config = self.config
        if not student.training or output.loss is None:
            return output
        if config.weight == 0 and self._match is None:
            return output
        # Labels stay: encoder-decoders make their decoder's input of them.
        inputs = {k: v for k, v in kwargs.items() if k != "num_items_in_batch"}
        logits = _take_logits(output)
        with torch.no_grad():
            # The Trainer moves the student after this was attached.
            taught = self.teacher.to(logits.device)(*args, **inputs)
        student_PC, teacher_PC = self._select(logits, _take_logits(taught), kwargs.get("labels"))
        extra = config.weight * distillation_loss(student_PC, teacher_PC, config.temperature)
        if self._match is not None:
            extra = extra + config.hidden_weight * self._match.compute(output, taught, kwargs)
        num_items = kwargs.get("num_items_in_batch")
        share = 1 if num_items is None else len(student_PC) / num_items
        output["loss"] = (1 - config.weight) * output.loss + share * extra
        return output

    def _select(
        self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits [P, C] of what the task's loss counts."""
        if labels is None or labels.dim() != 2 or student.dim() != 3:
            return student.flatten(0, -2), teacher.flatten(0, -2)
        if self._shifted:
            student, teacher, labels = student[:, :-1], teacher[:, :-1], labels[:, 1:]
        counted_BS = labels != IGNORED
        return student[counted_BS], teacher[counted_BS]


def _ask_hidden(
    student: Any, args: object, kwargs: dict[str, object]
) -> tuple[Any, dict[str, object]]:
    return args, {**kwargs, "output_hidden_states": True} if student.training else kwargs


def _take_logits(output: Any) -> torch.Tensor:
    """Return the logits; a question answering's as [batch, (start, end), tokens]."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=1)
    logits: torch.Tensor = output.logits
    return logits


def distillation_loss(
    student_PC: torch.Tensor, teacher_PC: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return `T^2 * KL(teacher || student)` of logits [predictions, classes], their mean."""
    student = F.log_softmax(student_PC / temperature, dim=-1)
    teacher = F.log_softmax(teacher_PC / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")
