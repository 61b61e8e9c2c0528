"""How near a pruned model is to the dense one: divergence of predictions, and loss on labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.activations.block_walk import Batch, prepare_inputs
from pruning.errors import NirvanaError
from pruning.oneshot.calibration import Calibration
from pruning.oneshot.divergence import divergence, predictions_of
from pruning.saliencies.model_passes import read_loss

_BATCHES = 4  # of a draw, at most

# R numbers that a head gives for the rows of a batch.


@torch.no_grad()
def compare_with_dense(
    dense: PreTrainedModel, pruned: PreTrainedModel, draw: Calibration
) -> dict[str, float | int | None]:
    """Return KL(dense || pruned) in nats and both models' loss, on the first batches of a draw.

    The losses are None where the labels are the dense model's own predictions: what it thinks of
    itself says nothing.
    """
    batches = draw.batches[:_BATCHES]
    total = 0.0
    for batch in batches:
        outputs = [model(**prepare_inputs(model, batch)) for model in (dense, pruned)]
        total += divergence(*(predictions_of(output) for output in outputs))
    has_labels = draw.labels != "predicted"
    return {
        "num_sequences": sum(len(batch["input_ids"]) for batch in batches),
        "kl_divergence": total / len(batches),
        "dense_loss": _mean_loss(dense, batches) if has_labels else None,
        "pruned_loss": _mean_loss(pruned, batches) if has_labels else None,
    }


@torch.no_grad()
def predict(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return all logits of one batch, [R] in float32 on the CPU."""
    found = predictions_of(model(**prepare_inputs(model, batch)))
    return torch.cat([logits.flatten() for logits in found]).float().cpu()


def prove_equal(
    what: str, source: str, came: torch.Tensor, expected: torch.Tensor, batch: Batch, dtype: Any
) -> dict[str, Any]:
    """Hold the logits of one form of the model against another's; return what was found.

    The forms add up the same numbers in another order: 1e-5 in float32, relative to the largest
    where that is above 1, and what 8 bits of mantissa leave of it in half precision.

    Raises:
        NirvanaError: they differ by more.
    """
    allowed = 1e-5 if dtype == torch.float32 else 4e-2
    tolerance = allowed * max(1.0, float(expected.abs().max()))
    difference = float((came - expected).abs().max())
    if not difference <= tolerance:  # NaN is no match either
        raise NirvanaError(
            f"The {what} model does not compute what the {source} one does: logits differ by "
            f"{difference:.2e}, at most {tolerance:.1e} expected. This is a defect of "
            "nirvana-deploy; please report it with the model type."
        )
    return {
        "left": what,
        "right": source,
        "num_rows": len(batch["input_ids"]),
        "max_abs_difference": difference,
        "tolerance": tolerance,
        "bitwise_equal": torch.equal(came, expected),
    }


def _mean_loss(model: PreTrainedModel, batches: Iterable[Mapping[str, torch.Tensor]]) -> float:
    losses = [float(read_loss(model, batch)) for batch in batches]
    return sum(losses) / len(losses)
