"""Reads a checkpoint's safetensors one tensor at a time, and holds them against a model.

Nothing is loaded at once: names, shapes and types come from the headers of the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from pruning.checkpoints.file_hash import check_inside
from pruning.errors import NirvanaError
from pruning.strict_json import read_json


class _Index(TypedDict):
    weight_map: dict[str, str]


INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor on disk."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> torch.Tensor:
        """Map the tensor into memory; its pages go when it is let go."""
        with _open(self.file) as shard:
            tensor: torch.Tensor = shard.get_tensor(self.name)
            return tensor


def list_tensors(folder: Path) -> list[StoredTensor]:
    """Return every tensor of a checkpoint, shard by shard, in the order of the files.

    Raises:
        NirvanaError: there are no safetensors, a shard is missing or corrupt, or a shard and the
            index disagree.
    """
    shards, indexed = _list_shards(folder)
    found: dict[str, StoredTensor] = {}
    for file in shards:
        for tensor in _read_header(file):
            if tensor.name in found:
                raise NirvanaError(
                    f"{tensor.name} is in both {found[tensor.name].file.name} and {file.name} of "
                    f"{folder}. {_AGAIN}"
                )
            found[tensor.name] = tensor
    if indexed is not None:
        _check_index(folder, found, indexed)
    return list(found.values())


_AGAIN = "Fetch or save the model again."


def _list_shards(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE], None
    if not (folder / INDEX_FILE).is_file():
        raise NirvanaError(
            f"Expected {SINGLE_FILE} or {INDEX_FILE} in {folder}, found neither. Weights in other "
            "formats are not read: load the model with transformers and save it again."
        )
    weight_map = read_json(folder / INDEX_FILE, _Index, remedy=_AGAIN)["weight_map"]
    for name in set(weight_map.values()):
        if Path(check_inside(name, folder)).name != name:
            raise NirvanaError(
                f"{folder / INDEX_FILE} names a file outside its folder: {name!r}. {_AGAIN}"
            )
    shards = [folder / name for name in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise NirvanaError(f"{folder} lacks {', '.join(missing)}. {_AGAIN}")
    return shards, weight_map


def _check_index(folder: Path, found: Mapping[str, StoredTensor], indexed: dict[str, str]) -> None:
    for name, file in indexed.items():
        if name not in found or found[name].file.name != file:
            raise NirvanaError(
                f"{INDEX_FILE} of {folder} says that {name} is in {file}, it is not. {_AGAIN}"
            )


def _read_header(file: Path) -> list[StoredTensor]:
    with _open(file) as shard:
        return [
            StoredTensor(
                name=name,
                file=file,
                shape=tuple(shard.get_slice(name).get_shape()),
                dtype=shard.get_slice(name).get_dtype(),
            )
            for name in shard.offset_keys()
        ]


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise NirvanaError(
            f"{file} is corrupt or cut short: {str(error).splitlines()[0]}. {_AGAIN}"
        ) from error


def name_as_in_model(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """Return each stored name's name in the model, as transformers would load it.

    Raises:
        NirvanaError: transformers computes a tensor of this model from others while it loads.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    state = model.state_dict()
    named = {}
    for name in names:
        named[name], converter = rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        if converter is not None:
            raise NirvanaError(
                f"transformers computes {named[name]} from {name} and others while it loads. Load "
                "this model with transformers and save it again first."
            )
    return named


def name_as_saved(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """Return the name under which transformers would save each tensor of the model.

    Some types keep the names of older versions on disk. A name stays where loading would not give
    it back.
    """
    conversions = get_model_conversion_mapping(model, add_legacy=False)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    backwards: list[Any] = [
        c.reverse_transform() for c in renamings[::-1] if not isinstance(c, PrefixChange)
    ]
    saved = {name: rename_source_key(name, backwards, [], reverse=True)[0] for name in names}
    loaded = name_as_in_model(model, saved.values())
    return {name: old if loaded[old] == name else name for name, old in saved.items()}


def refuse_packed(model: PreTrainedModel, stored: Mapping[str, str]) -> None:
    """Raise NirvanaError where a weight of the model is not stored in floating point.

    `stored` are the types by the model's names.
    """
    for name, tensor in model.state_dict().items():
        dtype = stored.get(name, "F32")
        if tensor.is_floating_point() and dtype not in ("F64", "F32", "F16", "BF16"):
            raise NirvanaError(
                f"{name} is stored as {dtype}: the weights are quantized, and rows and columns of "
                "packed numbers cannot be cut. Prune the floating-point model, then quantize the "
                "pruned one."
            )


def check_against_model(
    model: PreTrainedModel, stored: Mapping[str, tuple[int, ...]], blocks: Iterable[str]
) -> list[str]:
    """Hold what is stored (shapes by the model's names) against a model that its config makes.

    Returns the extra tensors outside the blocks, which the model does not use. `stored` is without
    what transformers itself ignores (see `list_ignored`); `blocks` are the
    prefixes of the lists of blocks.

    Raises:
        NirvanaError: a tensor is missing or has another shape, or a block has one too many: the
            config and the weights disagree.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in expected.items():
        if name in stored and stored[name] != shape:
            raise NirvanaError(
                f"The config makes {name} {list(shape)}, the weights have {list(stored[name])}: "
                "they are of different models. Put the config beside the weights it belongs to."
            )
    missing = sorted(set(expected) - set(stored) - _list_optional(model, expected, stored))
    if missing:
        raise NirvanaError(
            f"The weights lack {len(missing)} tensors that the config asks for: "
            f"{_show(missing)}. {_AGAIN}"
        )
    extra = sorted(set(stored) - set(expected))
    inside = [name for name in extra if any(name.startswith(prefix) for prefix in blocks)]
    if inside:
        raise NirvanaError(
            f"The weights hold {len(inside)} tensors in blocks that the config does not ask for: "
            f"{_show(inside)}. The config and the weights are of different models, or adapters "
            "were not merged."
        )
    return extra


def _list_optional(
    model: PreTrainedModel, expected: Iterable[str], stored: Iterable[str]
) -> set[str]:
    """Return what need not be stored: copies of tied tensors, and what transformers skips."""
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    held = {tied[name] for name in stored if name in tied}  # the copy is stored, not the original
    patterns = list(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
    skipped = {n for n in expected if any(re.search(pattern, n) for pattern in patterns)}
    return set(tied) | held | skipped


def list_ignored(model: PreTrainedModel, stored: Iterable[str]) -> set[str]:
    """Return the stored tensors that are no part of the model any more: buffers of old versions."""
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    patterns += [r"rotary_emb\.inv_freq$", r"position_ids$"]  # as transformers does
    extra = set(stored) - set(model.state_dict())
    return {name for name in extra if any(re.search(pattern, name) for pattern in patterns)}


def _show(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
