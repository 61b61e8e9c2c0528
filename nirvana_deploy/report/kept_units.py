"""The kept heads and neurons of each layer: a table that is its own chart, readable unscripted."""

from nirvana_deploy.report.markup import Html, element, join, paragraph
from nirvana_deploy.report.numbers import divide, format_count, format_percent
from nirvana_deploy.report.training_results import Layer


def draw_kept_units(layers: tuple[Layer, ...]) -> Html:
    """Draw a row a layer: its heads one by one, and its neurons as a bar."""
    if not layers:
        return paragraph("This run records no kept units by layer.", class_="note")
    legend = (_head(0, kept=True, text=""), " kept   ", _head(0, kept=False, text=""), " removed")
    caption = "Attention heads and MLP neurons kept in each layer"
    heads = ("Layer", "Heads", "Heads kept", "Neurons", "Neurons kept")
    drawn = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *(_layer_row(layer) for layer in layers)),
        element("tfoot", _total_row(layers)),
        class_="kept-units",
    )
    scroll = element("div", drawn, class_="scroll", role="region", aria_label=caption, tabindex="0")
    return join([element("p", *legend, class_="legend"), scroll])


def _layer_row(layer: Layer) -> Html:
    attention = "attention dropped" if layer.attention_dropped else _heads_kept(layer)
    neurons = (
        "MLP dropped" if layer.mlp_dropped else _share(layer.num_kept_neurons, layer.num_neurons)
    )
    return element(
        "tr",
        element("th", str(layer.layer), scope="row"),
        element("td", _head_grid(layer)),
        element("td", attention),
        element("td", _neuron_bar(layer), class_="wide"),
        element("td", neurons),
    )


def _total_row(layers: tuple[Layer, ...]) -> Html:
    num_heads = sum(layer.num_heads for layer in layers)
    num_kept_heads = sum(len(layer.kept_heads) for layer in layers)
    num_neurons = sum(layer.num_neurons for layer in layers)
    num_kept_neurons = sum(layer.num_kept_neurons for layer in layers)
    return element(
        "tr",
        element("th", "All", scope="row"),
        element("td"),
        element("td", _share(num_kept_heads, num_heads)),
        element("td"),
        element("td", _share(num_kept_neurons, num_neurons)),
    )


def _heads_kept(layer: Layer) -> str:
    return f"{len(layer.kept_heads)} of {layer.num_heads}"


def _share(kept: int, total: int) -> Html:
    share = element("small", format_percent(divide(kept, total), 0))
    return join([f"{format_count(kept)} of {format_count(total)} ", share])


def _head_grid(layer: Layer) -> Html:
    heads = (_head(i, kept=i in layer.kept_heads, text=str(i)) for i in range(layer.num_heads))
    kept = ", ".join(str(head) for head in sorted(layer.kept_heads)) or "none"
    label = f"Layer {layer.layer}, heads kept: {kept}"
    return element("div", *heads, class_="heads", role="img", aria_label=label)


def _head(index: int, *, kept: bool, text: str) -> Html:
    state = "kept" if kept else "removed"
    title = f"head {index}: {state}" if text else None
    return element("span", text, class_=f"head {state}", title=title)


def _neuron_bar(layer: Layer) -> Html:
    share = divide(layer.num_kept_neurons, layer.num_neurons) or 0.0
    fill = element("span", class_="fill", style=f"width:{min(share, 1.0) * 100:.2f}%")
    label = f"Layer {layer.layer}, neurons kept: {layer.num_kept_neurons} of {layer.num_neurons}"
    return element("div", fill, class_="bar", role="img", aria_label=label)
