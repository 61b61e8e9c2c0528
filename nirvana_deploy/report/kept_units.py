"""The kept heads and neurons of each layer: a table that is its own chart, readable unscripted."""

from collections.abc import Iterable

from nirvana_deploy.report.markup import Html, element, join, paragraph
from nirvana_deploy.report.numbers import divide, format_count, format_percent
from nirvana_deploy.report.training_results import Layer

_MOST_DRAWN = 4096


def draw_kept_units(layers: tuple[Layer, ...]) -> Html:
    """Draw a row a layer: its heads one by one, and its neurons as a bar.

    With cross-attention its heads have columns of their own. Layers of two stacks are told apart.
    """
    if not layers:
        return paragraph("This run records no kept units by layer.", class_="note")
    cross = has_cross_attention(layers)
    legend = (_head(0, kept=True, text=""), " kept   ", _head(0, kept=False, text=""), " removed")
    caption = "Attention heads and MLP neurons kept in each layer"
    heads = ["Layer", "Heads", "Heads kept", "Neurons", "Neurons kept"]
    if cross:
        heads[3:3] = ["Cross-attention heads", "Cross-attention heads kept"]
    named = zip(name_layers(layers), layers, strict=True)
    drawn = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *(_layer_row(name, layer, cross) for name, layer in named)),
        element("tfoot", _total_row(layers, cross)),
        class_="kept-units with-cross" if cross else "kept-units",
    )
    scroll = element("div", drawn, class_="scroll", role="region", aria_label=caption, tabindex="0")
    return join([element("p", *legend, class_="legend"), scroll])


def has_cross_attention(layers: Iterable[Layer]) -> bool:
    """Return whether a layer has a second attention, over the encoder's output."""
    return any(layer.kept_cross_heads is not None for layer in layers)


def name_layers(layers: tuple[Layer, ...]) -> tuple[str, ...]:
    """Number the layers; those of two stacks from 0 in each, after the stack's name."""
    if len({layer.stack for layer in layers}) < 2:
        return tuple(str(layer.layer) for layer in layers)
    stacks = [layer.stack or "" for layer in layers]
    return tuple(
        f"{stack} {stacks[:index].count(stack)}".strip() for index, stack in enumerate(stacks)
    )


def _layer_row(name: str, layer: Layer, cross: bool) -> Html:
    cells = [
        *_head_cells(f"Layer {name}, heads", layer.kept_heads, layer.num_heads, _attention(layer)),
        *(_cross_cells(name, layer) if cross else ()),
        element("td", _neuron_bar(name, layer), class_="wide"),
        element("td", _neurons(layer)),
    ]
    return element("tr", element("th", name, scope="row"), *cells)


def _head_cells(what: str, kept: frozenset[int], num_heads: int, told: str) -> tuple[Html, Html]:
    return element("td", _head_grid(what, kept, num_heads)), element("td", told)


def _cross_cells(name: str, layer: Layer) -> tuple[Html, Html]:
    kept = layer.kept_cross_heads
    if kept is None:
        return element("td"), element("td", element("small", "has none"))
    told = f"{len(kept)} of {layer.num_heads}"
    if layer.cross_attention_dropped:
        told = "block dropped" if layer.dropped else "attention dropped"
    return _head_cells(f"Layer {name}, cross-attention heads", kept, layer.num_heads, told)


def _attention(layer: Layer) -> str:
    if layer.dropped:
        return "block dropped"
    if layer.attention_dropped:
        return "attention dropped"
    return f"{len(layer.kept_heads)} of {layer.num_heads}"


def _neurons(layer: Layer) -> str:
    if layer.dropped:
        return "block dropped"
    if layer.mlp_dropped:
        return "MLP dropped"
    return _share(layer.num_kept_neurons, layer.num_neurons)


def _total_row(layers: tuple[Layer, ...], cross: bool) -> Html:
    num_heads = sum(layer.num_heads for layer in layers)
    num_kept_heads = sum(len(layer.kept_heads) for layer in layers)
    num_neurons = sum(layer.num_neurons for layer in layers)
    num_kept_neurons = sum(layer.num_kept_neurons for layer in layers)
    crossed = [(layer.kept_cross_heads, layer.num_heads) for layer in layers]
    having = [(kept, of) for kept, of in crossed if kept is not None]
    num_cross, num_kept_cross = sum(of for _, of in having), sum(len(kept) for kept, _ in having)
    cross_cells = (element("td"), element("td", _share(num_kept_cross, num_cross)))
    return element(
        "tr",
        element("th", "All", scope="row"),
        element("td"),
        element("td", _share(num_kept_heads, num_heads)),
        *(cross_cells if cross else ()),
        element("td"),
        element("td", _share(num_kept_neurons, num_neurons)),
    )


def _share(kept: int, total: int) -> Html:
    share = element("small", format_percent(divide(kept, total), 0))
    return join([f"{format_count(kept)} of {format_count(total)} ", share])


def _head_grid(what: str, kept: frozenset[int], num_heads: int) -> Html:
    if num_heads > _MOST_DRAWN:
        return element("small", f"{format_count(num_heads)} heads are too many to draw")
    heads = (_head(i, kept=i in kept, text=str(i)) for i in range(num_heads))
    label = f"{what} kept: {', '.join(str(head) for head in sorted(kept)) or 'none'}"
    return element("div", *heads, class_="heads", role="img", aria_label=label)


def _head(index: int, *, kept: bool, text: str) -> Html:
    state = "kept" if kept else "removed"
    title = f"head {index}: {state}" if text else None
    return element("span", text, class_=f"head {state}", title=title)


def _neuron_bar(name: str, layer: Layer) -> Html:
    share = divide(layer.num_kept_neurons, layer.num_neurons) or 0.0
    fill = element("span", class_="fill", style=f"width:{min(share, 1.0) * 100:.2f}%")
    label = f"Layer {name}, neurons kept: {layer.num_kept_neurons} of {layer.num_neurons}"
    return element("div", fill, class_="bar", role="img", aria_label=label)
