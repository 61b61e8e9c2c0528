"""What several runs keep of each layer, side by side: heads, cross-attention heads, neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nirvana_deploy.report.chart import Chart, Key, draw_missing, titled
from nirvana_deploy.report.kept_units import draw_kept_units, has_cross_attention, name_layers
from nirvana_deploy.report.markup import Html, folded, join
from nirvana_deploy.report.numbers import divide, format_percent
from nirvana_deploy.report.series import Style, style_of
from nirvana_deploy.report.subject import Subject
from nirvana_deploy.report.training_results import Layer

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


def _trace(key: str, style: Style, shares: dict[str, float]) -> dict[str, Any]:
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
