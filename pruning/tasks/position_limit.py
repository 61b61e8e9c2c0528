"""How many tokens a model takes: one answer for every consumer of that number."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pruning.checkpoints.config_file import CONFIG_FILE, read_config_file, read_tokenizer_file
from pruning.checkpoints.model_source import quiet_transformers
from pruning.errors import NirvanaError

# What the types call the number of positions, the usual names first.
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "max_target_positions",
)
_TABLE = re.compile(
    r"(?:^|\.)(?:position_embeddings?|embed_positions|positions_embed|pos_embed(?:ding)?s?|wpe)$"
)
# Modules of relative positions, of which there is no last one.
_RELATIVE = re.compile(r"(?:^|\.)(?:relative_attention_bias|r_r_bias)$")


def count_positions(model: PreTrainedModel) -> int | None:
    """Return the longest input of a model in tokens; None where there is no limit.

    The tables of positions say it, and the config only where there is no table. RoBERTa and its
    kin number positions from behind the padding token's id on, so that a table of 514 rows with
    padding 1 takes 512 tokens; BART and OPT skip two rows. A model on the meta device will do.
    """
    text_config = model.config.get_text_config()
    own_name = getattr(text_config, "max_position_embeddings", None)  # such as GPT-2's n_positions
    stated = _read_stated({**text_config.to_dict(), "max_position_embeddings": own_name})
    tables = [
        rows - _count_skipped(module)
        for name, module in model.named_modules()
        if _TABLE.search(name) and (rows := _count_rows(module)) is not None
    ]
    if tables:
        # Nystromformer's table has two rows more than its config says, which it skips.
        most: int | None = max(1, min([*tables, *(() if stated is None else (stated,))]))
        return most
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    return None if any(_RELATIVE.search(name) for name in names) else stated


def count_config_positions(config: Mapping[str, object]) -> int | None:
    """Return the longest input in tokens of a model whose config.json is given; None: no limit.

    A model without weights is built for a type that transformers knows, since only the classes
    tell how a type numbers its positions. For other types the config's number is taken as it is.
    """
    nested = config.get("text_config")
    if isinstance(nested, Mapping) and _read_stated(config) is None:
        config = nested
    model_type = config.get("model_type")
    stated = _read_stated(config)
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        pad = config.get("pad_token_id")
        keys = (*_LENGTHS, "pad_token_id") if _is_number(pad) and pad >= 0 else _LENGTHS
        given = {key: config[key] for key in keys if _is_number(config.get(key))}
        return _count_type_positions(model_type, tuple(sorted(given.items())))
    return stated


def is_position_table(name: str) -> bool:
    """Tell by a weight's name whether it is a table of positions; it may be quantized."""
    return bool(_TABLE.search(re.sub(r"\.weight(_quantized)?$", "", name)))


def find_usable_length(folder: Path) -> int | None:
    """Return the most tokens that model and tokenizer of a folder take; None where neither says.

    config.json gives the positions, tokenizer_config.json its model_max_length.

    Raises:
        NirvanaError: one of the two files is there and cannot be read.
    """
    is_there = (folder / CONFIG_FILE).is_file()
    config = read_config_file(folder, remedy="Save the checkpoint again.") if is_there else {}
    longest = read_tokenizer_file(folder / "tokenizer_config.json").get("model_max_length")
    limits = [count_config_positions(config)]
    # transformers writes 1e30 where a tokenizer has no limit.
    if _is_number(longest) and 1 <= longest < 1e9:
        limits.append(int(longest))
    return min((limit for limit in limits if limit is not None), default=None)


def check_length(model: PreTrainedModel, length: int, setting: str, *, more: int = 0) -> None:
    """Raise NirvanaError for inputs of `length` tokens where the model has fewer positions.

    `setting` is what the user set the length by, such as data.max_length; `more` is what comes to
    it, such as the token after a cache.
    """
    longest = count_positions(model)
    if longest is not None and length + more > longest:
        raise NirvanaError(
            f"{setting.rpartition('.')[2]} is {length}, but {model.config.model_type} here has "
            f"{longest} positions. Set {setting} to at most {longest - more}."
        )


@functools.lru_cache(maxsize=64)
def _count_type_positions(model_type: str, given: tuple[tuple[str, Any], ...]) -> int | None:
    """Build a model type with these settings and its default sizes; no weights are made."""
    settings = dict(given)
    # A padding token must be in the vocabulary that the table of tokens is built for.
    pad = settings.get("pad_token_id")
    room = {"vocab_size": int(pad) + 1000} if pad is not None else {}
    try:
        with torch.device("meta"), quiet_transformers():
            config = AutoConfig.for_model(model_type, **settings, **room)
            model = AutoModel.from_config(config)
    except Exception:  # of a type without a body of its own: its config has the number
        return _read_stated(settings)
    return count_positions(model)


def _count_rows(module: torch.nn.Module) -> int | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return None
    return int(weight.shape[0])


def _count_skipped(table: torch.nn.Module) -> int:
    """Return the rows that stand before the first token's."""
    padding = getattr(table, "padding_idx", None)
    if isinstance(padding, int):
        return padding + 1
    offset = getattr(table, "offset", None)
    return offset if isinstance(offset, int) else 0


def _read_stated(config: Mapping[str, object]) -> int | None:
    for name in _LENGTHS:
        number = config.get(name)
        if _is_number(number) and number >= 1:
            return int(number)
    return None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
