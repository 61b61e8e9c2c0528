"""A chart as the page holds it: what plotly draws, the key, and the same figures as a table.

Colours of text and grid are left to the page's style sheet, which follows light, dark and print.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from nirvana_deploy.report.markup import Html, element, folded, table

# In a swatch of 22 by 10: what plotly calls these symbols, and these dashes.
_SHAPES = {
    "circle": ("circle", {"cx": "11", "cy": "5", "r": "3.5"}),
    "square": ("rect", {"x": "7.5", "y": "1.5", "width": "7", "height": "7"}),
    "diamond": ("path", {"d": "M11 0.5 15.5 5 11 9.5 6.5 5Z"}),
    "triangle-up": ("path", {"d": "M11 1 15.5 9H6.5Z"}),
    "triangle-down": ("path", {"d": "M11 9 15.5 1H6.5Z"}),
    "cross": ("path", {"d": "M9.5 1h3v2.5h2.5v3h-2.5V9h-3V6.5H7v-3h2.5Z"}),
}
_DASHES = {
    "solid": None,
    "dash": "5 3",
    "dot": "1.5 2.5",
    "longdash": "9 3",
    "dashdot": "6 2 1.5 2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Describe a series to plotly. An open symbol is drawn by its outline.

    Attributes:
        colour: has a contrast of 3 or more on the page's white and on its near-black.
    """

    colour: str
    dash: str = "solid"
    symbol: str = "circle"

    def swatch(self, kind: str) -> Html:
        """Draw the key's sign: a "line", a "dot", or "both"."""
        parts = []
        if kind != "dot":
            dash = _DASHES[self.dash]
            parts.append(element("path", d="M0 5h22", stroke_width="2.5", stroke_dasharray=dash))
        if kind != "line":
            name, shape = _SHAPES[self.symbol.removesuffix("-open")]
            fill = "var(--page)" if self.symbol.endswith("-open") else "currentColor"
            parts.append(element(name, fill=fill, stroke_width="1.5", **shape))
        return element(
            "svg",
            *parts,
            viewBox="0 0 22 10",
            class_="swatch",
            style=f"color:{self.colour}",
            stroke="currentColor",
            aria_hidden="true",
        )


DENSE = Style(colour="#77838f", dash="dash", symbol="square-open")
PRUNED = Style(colour="#0f8f7a")
TARGET = Style(colour="#c26a1f", dash="dot", symbol="diamond")

_COLOURS = ("#0f8f7a", "#c26a1f", "#6272d9", "#b8527f", "#85801f", "#77838f")
_SYMBOLS = ("circle", "diamond", "triangle-up", "cross", "triangle-down", "square")
_LINES = ("solid", "dash", "dot", "longdash", "dashdot")


def style_of(number: int) -> Style:
    """Return the style of the run with this number; 30 of them differ."""
    return Style(
        colour=_COLOURS[number % len(_COLOURS)],
        dash=_LINES[number % len(_LINES)],
        symbol=_SYMBOLS[number % len(_SYMBOLS)],
    )


_HEIGHT = 210
_MAX_ROWS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of a chart's key; `kind` is "line", "dot" or "both"."""

    name: str
    style: Style
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What a chart is drawn from.

    Attributes:
        label: what the picture shows, for who does not see it.
        header, rows: the figures as a table; of many rows every n-th is written.
        x, y: what the axes differ by from the page's others, as plotly's layout has it.
    """

    title: str
    label: str
    keys: tuple[Key, ...]
    traces: list[dict[str, object]]
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    x: dict[str, object] = field(default_factory=dict)
    y: dict[str, object] = field(default_factory=dict)
    height: int = _HEIGHT

    def draw(self) -> Html:
        """Return the figure; the page's script gives the data to plotly."""
        stored = json.dumps({"data": self.traces, "layout": self._layout()}, allow_nan=False)
        # In a script element only "<" could end it early, and JSON may write it as an escape.
        safe = Html(stored.replace("<", "\\u003c"))
        keys = (
            element("span", key.style.swatch(key.kind), key.name, class_="key") for key in self.keys
        )
        style = f"height:{self.height}px"
        return element(
            "figure",
            element("figcaption", element("strong", self.title), *keys),
            element("div", class_="chart", role="img", aria_label=self.label, style=style),
            element("script", safe, type="application/json", class_="chart-data"),
            self._figures(),
        )

    def _figures(self) -> Html:
        step = -(-len(self.rows) // _MAX_ROWS)
        if step < 2:
            return _fold(table(self.title, self.header, self.rows))
        # Counted from the end: the last is what came of it.
        kept = list(reversed(self.rows[::-1][::step]))
        caption = f"{self.title}: {len(kept)} of {len(self.rows)} rows, each {step} apart"
        return _fold(table(caption, self.header, kept))

    def _layout(self) -> dict[str, object]:
        fixed = {"zeroline": False, "fixedrange": True}
        return {
            "height": self.height,
            "showlegend": False,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
            "font": {"family": "system-ui, sans-serif", "size": 12},
            "xaxis": {"title": {"text": "step", "standoff": 8}, **fixed, **self.x},
            "yaxis": {**fixed, **self.y},
        }


def titled(text: str) -> dict[str, object]:
    """Return an axis's title as plotly's layout has it."""
    return {"title": {"text": text, "standoff": 8}}


def draw_missing(what: str, how: str, command: str | None = None) -> Html:
    """Say what a chart would need, and how to get it."""
    lines = [element("strong", what), " ", how]
    if command:
        lines += [element("br"), element("code", command)]
    return element("p", *lines, class_="absent")


def _fold(drawn: Html) -> Html:
    return folded("The figures of this chart", drawn, class_="figures")
