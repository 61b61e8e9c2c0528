"""Says what gates can be learned on: a dense model, of a type that can be pruned."""

from __future__ import annotations

from transformers import PreTrainedModel

from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.checkpoints.model_source import resolve_model
from pruning.checkpoints.prunable_model import PrunableModel, is_whole
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError


def read_dense(model: PreTrainedModel) -> PrunableModel:
    """Read and check a model.

    Raises:
        NirvanaError: the model cannot be pruned, or was pruned before.
    """
    source = read_model(model)
    if not is_whole(source.current):
        raise NirvanaError(
            f"Expected a dense model to learn gates on, this {type(model).__name__} was pruned "
            "before. Start from the dense model, or cut this one further with a plan: "
            "`nirvana prune MODEL --plan FILE`."
        )
    return source


def check_source(source: str) -> None:
    """Raise NirvanaError for a model that gates cannot be learned on; its weights are not read."""
    read_dense(build_skeleton(resolve_model(source)))
