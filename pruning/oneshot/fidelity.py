"""How near a pruned model is to the dense one: divergence of predictions, and loss on labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from transformers import PreTrainedModel

from pruning.calibration.calibration import Calibration
from pruning.cutting.output_difference import (
    Outputs,
    divergence,
    find_largest,
    max_difference,
    name_predictions,
    predictions_of,
)
from pruning.errors import NirvanaError
from pruning.scoring.block_walk import Batch, prepare_inputs
from pruning.scoring.model_passes import read_loss

_BATCHES = 4  # of a draw, at most
# Outputs whose values are all smaller than this are compared on this scale: what is left of sums of
# numbers around 1 that cancel is some roundings of these.
_SMALLEST_SCALE, _SMALLEST_HALF_SCALE = 0.01, 0.05


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
def predict(model: PreTrainedModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the logits of one batch by the output's name, in float32 on the CPU."""
    found = name_predictions(model(**prepare_inputs(model, batch)))
    return {name: logits.float().cpu() for name, logits in found.items()}


def prove_equal(
    what: str, source: str, came: Outputs, expected: Outputs, num_rows: int, dtype: object
) -> dict[str, object]:
    """Compare the logits of one form of the model with another's; return what was found.

    The forms add up the same numbers in another order: 1e-5 in float32, relative to the largest
    value of the same output, and what 8 bits of mantissa leave of it in half precision. What is
    returned is of the output that is the furthest off by its own tolerance.

    Raises:
        NirvanaError: an output differs by more, or has NaN.
    """
    exact = dtype == torch.float32
    allowed, smallest = (1e-5, _SMALLEST_SCALE) if exact else (4e-2, _SMALLEST_HALF_SCALE)
    differences = {name: max_difference(came[name], expected[name]) for name in expected}
    tolerances = {n: allowed * max(smallest, find_largest(e)) for n, e in expected.items()}
    worst = max(differences, key=lambda name: differences[name] / tolerances[name])
    difference, tolerance = differences[worst], tolerances[worst]
    if difference > tolerance:
        raise NirvanaError(
            f"The {what} model does not compute what the {source} one does: {worst} differs by "
            f"{difference:.2e}, at most {tolerance:.1e} expected. This is a defect of "
            "nirvana-deploy; please report it with the model type."
        )
    return {
        "left": what,
        "right": source,
        "num_rows": num_rows,
        "output": worst,
        "max_abs_difference": difference,
        "tolerance": tolerance,
        "bitwise_equal": all(torch.equal(came[name], expected[name]) for name in expected),
    }


def _mean_loss(model: PreTrainedModel, batches: Iterable[Mapping[str, torch.Tensor]]) -> float:
    losses = [float(read_loss(model, batch)) for batch in batches]
    return sum(losses) / len(losses)
