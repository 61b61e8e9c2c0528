"""A chart as the page holds it: what plotly draws, the key, and the same figures as a table.

Colours of text and grid are left to the page's style sheet, which follows light, dark and print.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nirvana_deploy.report.markup import Html, element, folded, table
from nirvana_deploy.report.series import Style

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
    traces: list[dict[str, Any]]
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    x: dict[str, Any] = field(default_factory=dict)
    y: dict[str, Any] = field(default_factory=dict)
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

    def _layout(self) -> dict[str, Any]:
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


def titled(text: str) -> dict[str, Any]:
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
