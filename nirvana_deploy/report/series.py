"""How a series is told apart: by its colour, and for black and white by its dash and its symbol."""

from __future__ import annotations

from dataclasses import dataclass

from nirvana_deploy.report.markup import Html, element

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
