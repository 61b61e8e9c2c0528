"""Matches a student's hidden states with a teacher's, layer by layer, as CoFi does (Xia 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning.errors import NirvanaError
from pruning.tasks.task import IGNORED
from pruning.training.training_configs import DistillationConfig

# B batch, S sequence, D hidden size of the student, E of the teacher; T and L layers of each.

ATTRIBUTE = "nirvana_hidden_projection"
_STACKS = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")


class HiddenStateMatch:
    """The relative error of a student's hidden states: `|W h_s - h_t|^2 / |h_t|^2`, mean of tokens.

    For each of a few layers of the teacher, evenly spread with the last among them, the student's
    layer is the one with the least error, in the order of the layers: for a later layer of the
    teacher the same one or a later. So the two need not be equally deep. W is the identity, or is
    learned with the student from the identity on; it is a submodule of the student until `detach`.
    """

    def __init__(
        self, config: DistillationConfig, student: PreTrainedModel, teacher: PreTrainedModel
    ) -> None:
        self._num_layers = config.num_hidden_layers
        self._student = student
        self._projection: nn.Linear | None = None
        own, wanted = _read_size(student), _read_size(teacher)
        if config.hidden_projection == "learned":
            projection = nn.Linear(own, wanted, bias=False)
            nn.init.eye_(projection.weight)
            student.add_module(ATTRIBUTE, projection.to(student.device))
            self._projection = projection
        elif own != wanted:
            raise NirvanaError(
                f"The teacher's hidden states have {wanted} numbers, the student's {own}: set "
                "distillation.hidden_projection to learned."
            )

    def detach(self) -> None:
        """Take the learned projection out of the student again, in place."""
        if self._projection is not None:
            delattr(self._student, ATTRIBUTE)
            self._projection = None

    def compute(self, student: Any, teacher: Any, inputs: dict[str, object]) -> torch.Tensor:
        """Return the error between two outputs, the mean of the stacks that both have."""
        stacks = [name for name in _STACKS if student.get(name) and teacher.get(name)]
        errors = [self._compare(student[n], teacher[n], _find_live(n, inputs)) for n in stacks]
        return torch.stack(errors).mean()

    def _compare(
        self,
        student: tuple[torch.Tensor, ...],
        teacher: tuple[torch.Tensor, ...],
        live_BS: torch.Tensor | None,
    ) -> torch.Tensor:
        errors_TL = torch.stack(
            [
                torch.stack([self._measure(s_BSD, t_BSE, live_BS) for s_BSD in student[1:]])
                for t_BSE in _spread(teacher[1:], self._num_layers)
            ]
        )
        matched = match_layers(errors_TL.detach())
        return torch.stack([errors_TL[t, layer] for t, layer in enumerate(matched)]).mean()

    def _measure(
        self, student_BSD: torch.Tensor, teacher_BSE: torch.Tensor, live_BS: torch.Tensor | None
    ) -> torch.Tensor:
        mapped = student_BSD if self._projection is None else self._projection(student_BSD)
        difference, teacher = mapped.float() - teacher_BSE.float(), teacher_BSE.float()
        if live_BS is not None:
            difference, teacher = difference[live_BS], teacher[live_BS]
        return difference.pow(2).mean() / teacher.pow(2).mean()


def match_layers(errors_TL: torch.Tensor) -> list[int]:
    """Return a student's layer for each of the teacher's, never falling, with the least sum."""
    errors = errors_TL.tolist()
    best, origins = errors[0], []
    for row in errors[1:]:
        # The cheapest way to any layer up to each one.
        up_to = [min(range(n + 1), key=best.__getitem__) for n in range(len(row))]
        best = [error + best[before] for error, before in zip(row, up_to, strict=True)]
        origins.append(up_to)
    matched = [min(range(len(best)), key=best.__getitem__)]
    for up_to in reversed(origins):
        matched.append(up_to[matched[-1]])
    return matched[::-1]


def _spread(layers: tuple[torch.Tensor, ...], count: int) -> list[torch.Tensor]:
    """Return `count` of the layers, evenly spread, the last among them."""
    total, count = len(layers), min(count, len(layers))
    return [layers[(i + 1) * total // count - 1] for i in range(count)]


def _read_size(model: PreTrainedModel) -> int:
    size = getattr(model.config, "hidden_size", None)  # T5 and BART say it too, as an alias
    if size is None:
        raise NirvanaError(
            f"The config of {type(model).__name__} has no hidden_size: hidden states cannot be "
            "matched. Set distillation.hidden_weight to 0."
        )
    return int(size)


def _find_live(stack: str, inputs: dict[str, Any]) -> torch.Tensor | None:
    """Return which tokens of a stack are no padding [B, S]; None: all."""
    if stack == "decoder_hidden_states":
        labels = inputs.get("labels")
        # A sequence classification's decoder reads the encoder's tokens.
        if labels is not None and labels.dim() == 2:
            return torch.as_tensor(labels != IGNORED)
    mask = inputs.get("attention_mask")
    return None if mask is None or mask.dim() != 2 else mask.bool()
