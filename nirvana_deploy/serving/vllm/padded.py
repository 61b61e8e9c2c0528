"""Form `padded`: zeros until all layers are alike, so that the stock class can say them."""

from __future__ import annotations

from typing import Any

from nirvana_deploy.serving.vllm.held_sizes import hold_alike
from nirvana_deploy.serving.vllm.layer_sizes import read_sizes
from nirvana_deploy.serving.vllm.served_form import ServedForm, ask_config_class, make_plain


def make_padded(
    document: dict[str, Any], neuron_multiple: int = 1, *, ties_head_width: bool = False
) -> ServedForm:
    """Return a checkpoint's form in which every layer is as large as the largest.

    With `ties_head_width`, there are as many heads as fill the hidden size.

    Raises:
        NirvanaError: the type cannot be padded, or its config class takes no fitting numbers.
    """
    sizes = read_sizes(document)
    keys = sizes.stack.config
    takes = ask_config_class(document, keys)
    filling = document["hidden_size"] // sizes.head_dim

    def accepts(heads: int, kv_heads: int) -> bool:
        return (heads == filling or not ties_head_width) and takes(heads, kv_heads)

    most = filling if ties_head_width else sizes.dense_heads
    held = hold_alike(sizes.layers, accepts, most, neuron_multiple)
    counts = {
        keys.heads: held[0].num_heads,
        keys.kv_heads: held[0].num_kv_heads,
        keys.neurons: held[0].num_neurons,
        keys.head_dim: sizes.head_dim,
    }
    return ServedForm(document={**make_plain(document), **counts}, sizes=sizes, held=held)
