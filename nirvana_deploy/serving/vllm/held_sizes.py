"""What a server must be given for each layer: at least what it has, in numbers that it can say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nirvana_deploy.serving.vllm.layer_sizes import LayerSize, read_sizes
from nirvana_deploy.serving.vllm.served_form import ServedForm, ask_config_class, make_plain
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

Accepts = Callable[[int, int], bool]  # query heads, KV heads


def hold_alike(
    layers: Sequence[LayerSize], accepts: Accepts, most_heads: int, neuron_multiple: int = 1
) -> tuple[LayerSize, ...]:
    """Return one size for all layers, the smallest that holds each of them.

    `accepts` says whether the config of the model's class takes these numbers of heads, of which
    there are `most_heads` at most (the dense model's).

    Raises:
        NirvanaError: no such number is accepted.
    """
    group = max(1, *(layer.heads_per_group for layer in layers))
    groups = max(1, *(layer.num_kv_heads for layer in layers))
    neurons = _round_up(max(1, *(layer.num_neurons for layer in layers)), neuron_multiple)
    fitting = [
        (heads + kv_heads, heads, kv_heads)
        for heads in range(group * groups, most_heads + 1)
        for kv_heads in range(groups, heads // group + 1)
        if heads % kv_heads == 0 and accepts(heads, kv_heads)
    ]
    if not fitting:
        raise NirvanaError(
            f"No number of heads up to {most_heads} holds {groups} KV heads of {group} query heads "
            "in every layer and is taken by the config of the model's class. Package it with "
            "form per-layer, or prune it with allocation uniform."
        )
    _, heads, kv_heads = min(fitting)
    size = LayerSize(num_heads=heads, num_kv_heads=kv_heads, num_neurons=neurons)
    return (size,) * len(layers)


def hold_query_heads(
    layers: Sequence[LayerSize],
    accepts: Accepts,
    most_heads: int,
    neuron_multiple: int,
    must_stay: Callable[[int, str], bool],
) -> tuple[LayerSize, ...]:
    """Return sizes with one number of query heads, and KV heads that divide it layer by layer.

    A layer's KV heads are few, and its query heads are shared out among them alike. Parts that are
    empty stay so unless `must_stay(layer, "attention" or "mlp")`.

    Raises:
        NirvanaError: no number of heads holds every layer.
    """
    choices = []
    for heads in range(1, most_heads + 1):
        held = [
            _find_kv_heads(layer, heads, must_stay(number, "attention"), accepts)
            for number, layer in enumerate(layers)
        ]
        if all(kv_heads is not None for kv_heads in held):
            kv = [kv_heads or 0 for kv_heads in held]
            choices.append((sum(heads + n for n in kv if n), heads, kv))
    if not choices:
        largest = max(range(len(layers)), key=lambda number: layers[number].num_heads)
        raise NirvanaError(
            f"Layer {largest} has {layers[largest].num_heads} query heads on "
            f"{layers[largest].num_kv_heads} KV heads, and no number of query heads up to "
            f"{most_heads} holds it and the other layers: KV heads must divide it. Package it "
            "with form padded or per-layer."
        )
    _, heads, kv = min(choices)
    return tuple(
        LayerSize(
            num_heads=heads if kv_heads else 0,
            num_kv_heads=kv_heads,
            num_neurons=_round_up(
                max(layer.num_neurons, int(must_stay(number, "mlp"))), neuron_multiple
            ),
        )
        for number, (layer, kv_heads) in enumerate(zip(layers, kv, strict=True))
    )


def _find_kv_heads(layer: LayerSize, heads: int, must_stay: bool, accepts: Accepts) -> int | None:
    """Return the fewest KV heads among which `heads` query heads hold the layer; None: none do."""
    if not layer.num_heads and not must_stay:
        return 0
    least, group = max(1, layer.num_kv_heads), max(1, layer.heads_per_group)
    fitting = (n for n in range(least, heads // group + 1) if heads % n == 0 and accepts(heads, n))
    return next(fitting, None)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def make_padded(
    document: JsonObject, neuron_multiple: int = 1, *, ties_head_width: bool = False
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
