"""The config of a checkpoint with DeciLM's `block_configs`.

This file is copied into packages, so that a server without nirvana-deploy can read the config when
it is told to trust the folder's code: it imports transformers, nothing else.
"""

from typing import Any

from transformers import LlamaConfig


class Entry(dict[str, object]):
    """A mapping whose keys are attributes too, as DeciLM's modelling reads them."""

    def __getattr__(self, name: str) -> object:
        """Return the value of a key."""
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class DeciConfig(LlamaConfig):
    """Llama's config, with an entry for each block."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        self.block_configs = [
            Entry({part: Entry(values) for part, values in block.items()})
            for block in block_configs or []
        ]
        super().__init__(**kwargs)
