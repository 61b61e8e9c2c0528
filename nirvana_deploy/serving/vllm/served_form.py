"""What a form of a checkpoint comes to: its config, its layers, and what its user must know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nirvana_deploy.serving.vllm.layer_sizes import CheckpointSizes, LayerSize
from pruning.strict_json import JsonObject

# Of pruned checkpoints; a server's own classes read none of it.
_OURS = ("nirvana", "auto_map", "per_layer_config", "allow_global_per_layer_attribute_access")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedForm:
    """Say what is written.

    Attributes:
        document: the new `config.json`.
        sizes: of the checkpoint; None where its weights go along as they are.
        held: what each layer is filled up to with zeros.
        left_out: (layer, module) whose tensors do not go along.
        code: text of files with code, by name: a server runs them when told to trust them.
        notes: what to know before serving it.
    """

    document: dict[str, object]
    sizes: CheckpointSizes | None = None
    held: tuple[LayerSize, ...] = ()
    left_out: frozenset[tuple[int, str]] = frozenset()
    code: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def make_plain(document: dict[str, object]) -> JsonObject:
    """Return a pruned checkpoint's config without what is ours, naming the stock class."""
    plain = {key: value for key, value in document.items() if key not in _OURS}
    return {**plain, "architectures": [name_stock(document)]}


def name_stock(document: JsonObject) -> str:
    """Return the name of transformers' class of a checkpoint."""
    return str((document.get("architectures") or ["none"])[0]).removeprefix("Pruned")


def ask_config_class(document: dict[str, object], keys: Any) -> Callable[[int, int], bool]:
    """Return a test whether the model's config class takes numbers of query and of KV heads.

    Llama's, for one, wants the former to divide the hidden size, though nothing computed by it
    does. `keys` are the config's names of the counts.
    """
    from transformers import AutoConfig

    plain = make_plain(document)
    known: dict[tuple[int, int], bool] = {}

    def accepts(heads: int, kv_heads: int) -> bool:
        if (heads, kv_heads) not in known:
            counts = {keys.heads: heads, keys.kv_heads: kv_heads}
            try:
                AutoConfig.for_model(**{**plain, **counts})
            except Exception:  # whatever its own checks raise
                known[heads, kv_heads] = False
            else:
                known[heads, kv_heads] = True
        return known[heads, kv_heads]

    return accepts
