"""Lets a fine-tuned dense model teach the pruned one, inside any training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pruning.training.distillation_config import DistillationConfig


class Distillation:
    """Mixes a teacher's soft labels into the loss that the student's forward pass returns.

    `loss = (1 - w) * task + w * T^2 * KL(teacher || student)` at temperature T, batch mean.
    """

    def __init__(self, teacher: PreTrainedModel, config: DistillationConfig) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.config = config

    def attach(self, student: PreTrainedModel) -> RemovableHandle:
        """Change what `student` returns as loss in training mode, in place."""
        return student.register_forward_hook(self._mix, with_kwargs=True)

    def _mix(self, student: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if not student.training or output.loss is None or self.config.weight == 0:
            return output
        # Labels stay: encoder-decoders make their decoder's input of them.
        inputs = {k: v for k, v in kwargs.items() if k != "num_items_in_batch"}
        logits = _take_logits(output)
        with torch.no_grad():
            # The Trainer moves the student after this was attached.
            teacher_logits = _take_logits(self.teacher.to(logits.device)(*args, **inputs))
        soft = distillation_loss(logits, teacher_logits, self.config.temperature)
        output["loss"] = (1 - self.config.weight) * output.loss + self.config.weight * soft
        return output


def _take_logits(output: Any) -> torch.Tensor:
    """Return the logits; a question answering's as [batch, (start, end), tokens]."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=1)
    logits: torch.Tensor = output.logits
    return logits


def distillation_loss(
    student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return `T^2 * KL(teacher || student)` of logits [batch, classes], mean over the batch."""
    student = F.log_softmax(student_BC / temperature, dim=-1)
    teacher = F.log_softmax(teacher_BC / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")
