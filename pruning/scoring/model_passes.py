"""Runs a model for a saliency: its loss, its logits, its gradients, and nothing left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel

from pruning.errors import NirvanaError
from pruning.scoring.block_walk import Batch, prepare_inputs
from pruning.scoring.saliency import ScoringTask
from pruning.scoring.unit_weights import list_weights

# B sequences, S token positions, V vocabulary or classes.


@contextlib.contextmanager
def leave_as_found(model: PreTrainedModel) -> Iterator[None]:
    """Put the model into evaluation mode without gradients, and all back as it was afterwards."""
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, needed, gradient in parameters:
            parameter.requires_grad_(needed)
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def hold_gradients(
    task: ScoringTask, objective: Callable[[PreTrainedModel, Batch], torch.Tensor]
) -> Iterator[None]:
    """Give every weight of a unit the gradient of the sum of `objective` over all batches.

    No other parameter gets one, so memory holds one more copy of the prunable weights at most.
    """
    require_batches(task)
    with leave_as_found(task.model), torch.enable_grad():
        task.model.requires_grad_(False)
        for weight in list_weights(task.sites.values()):
            weight.requires_grad_(True)
        for batch in task.batches:
            objective(task.model, batch).backward()
        yield


def multiply_gradient(weight: torch.nn.Parameter) -> torch.Tensor:
    """Return the weight times its gradient, which is 0 where the objective does not use it."""
    if weight.grad is None:
        return torch.zeros_like(weight, dtype=torch.float32)
    return weight.detach().float() * weight.grad.float()


def require_batches(task: ScoringTask) -> None:
    """Raise NirvanaError where there is nothing to calibrate on."""
    if not task.batches:
        raise NirvanaError(
            "This saliency looks at data and got no calibration batches. Give it one or more, or "
            "use 'magnitude', which needs none."
        )


def read_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the model's own loss on a batch with labels.

    Raises:
        NirvanaError: the model gives no loss.
    """
    inputs = prepare_inputs(model, batch)
    if "labels" in batch:
        inputs["labels"] = batch["labels"].to(model.device)
    loss: torch.Tensor | None = getattr(model(**inputs), "loss", None)
    if loss is None:
        raise NirvanaError(
            f"This saliency needs a loss, and {type(model).__name__} gave none for a batch of "
            f"{', '.join(sorted(batch))}. Add labels to the calibration batches, or use "
            "'nirvana', 'flap' or 'obs', which need none."
        )
    return loss


def read_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return logits in float32: [B, S, V], or [B, V] where the model gives one vector a sequence.

    The two scores of question answering, of a position as the start and as the end of the answer,
    are its V = 2.

    Raises:
        NirvanaError: the model gives no logits.
    """
    output: object = model(**prepare_inputs(model, batch))
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits.float()
    start, end = (getattr(output, name, None) for name in ("start_logits", "end_logits"))
    if start is None or end is None:
        raise NirvanaError(
            f"This saliency needs logits, and {type(model).__name__} gives none. Load the model "
            "with the head of its task, or use 'flap', 'obs' or 'magnitude'."
        )
    return torch.stack((start, end), dim=-1).float()
