"""How long an input a model takes."""

from __future__ import annotations

from transformers import PreTrainedModel

from pruning.errors import NirvanaError


def check_length(model: PreTrainedModel, length: int, setting: str) -> None:
    """Raise NirvanaError for inputs of `length` tokens where the model has fewer positions.

    `setting` is what the user set the length by, such as data.max_length.
    """
    longest = _count_positions(model)
    if longest is not None and length > longest:
        raise NirvanaError(
            f"{setting.rpartition('.')[2]} is {length}, but {model.config.model_type} here has "
            f"{longest} positions. Set {setting} to at most {longest}."
        )


def _count_positions(model: PreTrainedModel) -> int | None:
    """Return the longest input in tokens; None where there is no limit."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    # RoBERTa and its kin count positions from behind the padding token's number.
    offset = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return None if positions is None else positions - (0 if offset is None else offset + 1)
