"""Takes the fingerprint of a model's weights, in memory or on disk (see `WeightFingerprint`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.checkpoint_source import StoredTensor, list_tensors, name_as_in_model
from pruning.checkpoints.prunable_model import PrunableModel, is_whole
from pruning.plans.weight_fingerprint import (
    Matrix,
    Part,
    WeightFingerprint,
    WeightGroup,
    pick_channels,
    take_fingerprint,
)
from pruning.wirings.wiring import AttentionWiring, MlpWiring, StackWiring

Find = Callable[[str], torch.Tensor | None]


def list_fingerprints(
    model: PreTrainedModel, source: PrunableModel
) -> tuple[WeightFingerprint, ...]:
    """Return the fingerprints of the dense weights that a model in memory is, or was pruned from.

    A pruned model's are in its plan: its own weights may have been repaired or trained. Empty for
    weights that are not in this process's memory.
    """
    if source.current.weights or not is_whole(source.current):
        return source.current.weights
    state = model.state_dict()

    def find(name: str) -> torch.Tensor | None:
        tensor = state.get(name)
        # Elsewhere: on the meta device, or shared out over processes.
        absent = tensor is None or tensor.is_meta or hasattr(tensor, "full_tensor")
        return None if absent else tensor

    return _take(source, find)


def list_stored_fingerprints(
    folder: Path, model: PreTrainedModel, source: PrunableModel
) -> tuple[WeightFingerprint, ...]:
    """Return the same for a checkpoint on disk, of which `model` is the skeleton.

    A few tensors are read, one at a time.
    """
    if source.current.weights or not is_whole(source.current):
        return source.current.weights
    stored = {tensor.name: tensor for tensor in list_tensors(folder)}
    names = name_as_in_model(model, stored)
    return fingerprint_stored(source, {names[name]: tensor for name, tensor in stored.items()})


def fingerprint_stored(
    source: PrunableModel, stored: dict[str, StoredTensor]
) -> tuple[WeightFingerprint, ...]:
    """Return the fingerprint of stored tensors, by their names in the model."""
    if source.current.weights or not is_whole(source.current):
        return source.current.weights

    def find(name: str) -> torch.Tensor | None:
        return stored[name].read() if name in stored else None

    return _take(source, find)


def _take(source: PrunableModel, find: Find) -> tuple[WeightFingerprint, ...]:
    def read(group: WeightGroup) -> Sequence[Matrix] | None:
        stack = source.wiring.stacks[group.stack]
        wiring = _find_part(stack, group.part)
        prefix = f"{source.prefix}{stack.blocks}.{group.number}."
        if group.side == "output":
            tensor = find(f"{prefix}{wiring.output}.weight")
            return None if tensor is None else [_pick(tensor, 1 if stack.transposed else 0)]
        found = []
        for projection in wiring.inputs:
            tensor = find(f"{prefix}{projection.path}.weight")
            if tensor is not None:
                found.append(_pick(tensor, 0 if stack.transposed else 1))
            elif not projection.optional:
                return None
        return found

    return take_fingerprint(source.dims, read)


def _find_part(stack: StackWiring, part: Part) -> AttentionWiring | MlpWiring:
    if part == "mlp":
        return stack.mlp
    found = stack.attention if part == "attention" else stack.cross_attention
    assert found is not None
    return found


def _pick(tensor: torch.Tensor, hidden_axis: int) -> Matrix:
    """Return a few hidden channels of a weight as float32 [units, channels]."""
    channels = torch.tensor(pick_channels(tensor.shape[hidden_axis]), device=tensor.device)
    picked = tensor.detach().index_select(hidden_axis, channels).float().cpu()
    matrix: Matrix = (picked if hidden_axis == 1 else picked.T).contiguous().numpy()
    return matrix
