"""What several runs keep of each layer, side by side: heads, cross-attention heads, neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nirvana_deploy.report.chart import Chart, Key, Style, draw_missing, style_of, titled
from nirvana_deploy.report.markup import Html, element, folded, join, paragraph
from nirvana_deploy.report.numbers import divide, format_count, format_percent
from nirvana_deploy.report.subject import Subject
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
        element("td", _neurons_kept_units(layer)),
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


def _neurons_kept_units(layer: Layer) -> str:
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


_Share = Callable[[Layer], float | None]
_Told = tuple[Subject, Style]


def draw_kept(subjects: Sequence[Subject]) -> Html:
    """Draw a line a run over the layers for each kind of unit, then each run's own table."""
    told = [
        (subject, style_of(number)) for number, subject in enumerate(subjects) if subject.layers
    ]
    if not told:
        return draw_missing(
            "None of these says what is kept.",
            "Give a run, a budget's folder, or the plan.json of a pruned checkpoint.",
        )
    alike: dict[tuple[str, ...], list[_Told]] = {}
    for subject, style in told:
        alike.setdefault(name_layers(subject.layers), []).append((subject, style))
    charts = [_draw_model(names, those) for names, those in alike.items()]
    tables = [
        folded(f"{s.key} {s.name}: the units of each layer".strip(), draw_kept_units(s.layers))
        for s, _ in told
    ]
    return join([*charts, *tables])


def _draw_model(names: tuple[str, ...], told: Sequence[_Told]) -> Html:
    """Draw the runs whose models have the same layers, a chart for each kind of unit."""
    kinds: list[tuple[str, _Share]] = [("Attention heads", _heads), ("MLP neurons", _neurons)]
    if any(has_cross_attention(subject.layers) for subject, _ in told):
        kinds.insert(1, ("Cross-attention heads", _cross_heads))
    size = f"{len(names)} layers"
    return join(
        _draw_kind(f"{kind} kept by layer, {size}", share, told, names) for kind, share in kinds
    )


def _heads(layer: Layer) -> float | None:
    return divide(len(layer.kept_heads), layer.num_heads)


def _cross_heads(layer: Layer) -> float | None:
    kept = layer.kept_cross_heads
    return None if kept is None else divide(len(kept), layer.num_heads)


def _neurons(layer: Layer) -> float | None:
    return divide(layer.num_kept_neurons, layer.num_neurons)


def _draw_kind(title: str, share: _Share, told: Sequence[_Told], names: tuple[str, ...]) -> Html:
    lines = [(subject.key or "pruned", style, _shares(subject, share)) for subject, style in told]
    stacks = sorted({name.split()[0] for name in names if " " in name}, reverse=True)
    written = ", ".join(f"{stack[0].upper()} {stack}" for stack in stacks)
    return Chart(
        title=title,
        label=f"{title}: " + "; ".join(f"{key} {_mean(s)} on average" for key, _, s in lines),
        keys=tuple(Key(name=key, style=style, kind="both") for key, style, _ in lines),
        traces=[_trace(key, style, shares) for key, style, shares in lines],
        header=("Layer", *(key for key, _, _ in lines)),
        rows=[
            (name, *(format_percent(shares.get(name), 0) for _, _, shares in lines))
            for name in names
        ],
        x={
            **titled(f"layer ({written})" if written else "layer"),
            "type": "category",
            "categoryorder": "array",
            "categoryarray": list(names),
            "tickvals": list(names),
            "ticktext": [_abbreviate(name) for name in names],
        },
        y={"tickformat": ".0%", "range": [-0.04, 1.06]},
        height=240,
    ).draw()


def _abbreviate(name: str) -> str:
    """Write "decoder 3" as D3: many layers stand side by side on a narrow screen."""
    stack, _, number = name.rpartition(" ")
    return f"{stack[:1].upper()}{number}"


def _shares(subject: Subject, share: _Share) -> dict[str, float]:
    named = zip(name_layers(subject.layers), map(share, subject.layers), strict=True)
    return {name: value for name, value in named if value is not None}


def _mean(shares: dict[str, float]) -> str:
    return format_percent(divide(sum(shares.values()), len(shares)), 0)


def _trace(key: str, style: Style, shares: dict[str, float]) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": key,
        "x": list(shares),
        "y": list(shares.values()),
        "line": {"color": style.colour, "width": 2, "dash": style.dash},
        "marker": {"color": style.colour, "size": 7, "symbol": style.symbol},
        "hovertemplate": f"{key}, layer %{{x}}: %{{y:.0%}}<extra></extra>",
    }
