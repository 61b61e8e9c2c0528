"""HTML from strings that escapes by default: only what `element` made is taken as markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

_VOID = {"meta", "link", "br", "hr"}


class Html(str):
    """Text that is markup already; every other string is escaped when it becomes a child."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | None) -> Html:
    """Make an element; `class_` is class, `aria_label` is aria-label, None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Html:
    """Put children side by side, escaping those that are not markup."""
    return Html("".join(_escape(child) for child in children))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Make a table whose first column heads its rows; wide ones scroll inside their own frame."""
    heads = (element("th", cell, scope="col") for cell in header)
    body = (
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    )
    drawn = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
    )
    return element("div", drawn, class_="scroll", role="region", aria_label=caption, tabindex="0")


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    """Make a list of terms and their values."""
    rows = (element("div", element("dt", term), element("dd", value)) for term, value in pairs)
    return element("dl", *rows)


def folded(summary: str, *children: str, class_: str | None = None) -> Html:
    """Put children behind a line that opens them."""
    return element("details", element("summary", summary), *children, class_=class_)


def section(anchor: str, title: str, *children: str) -> Html:
    """Make a section with a heading of the second level."""
    heading = element("h2", title, id=f"{anchor}-title")
    return element("section", heading, *children, id=anchor, aria_labelledby=f"{anchor}-title")


def paragraph(*children: str, class_: str | None = None) -> Html:
    """Make a paragraph."""
    return element("p", *children, class_=class_)


def _escape(child: str) -> str:
    return child if isinstance(child, Html) else html.escape(child)


_MARK = '<meta name="generator" content="nirvana-deploy">'
# The browser itself then refuses whatever would leave the file.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)


def draw_document(title: str, body: Html) -> str:
    """Draw a document; plotly is in it where the body holds a chart."""
    scripts = _scripts() if 'class="chart"' in body else Html()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(_MARK),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", _shipped("style.css")),
    )
    return "<!doctype html>\n" + element("html", head, element("body", body, scripts), lang="en")


def draw_footer(source: str) -> Html:
    """Say where the numbers come from, and how they are written."""
    return element(
        "footer",
        paragraph(
            f"Every number on this page comes from {source}. MACs are "
            "multiply-accumulates of the Transformer blocks; sizes are decimal (1 MB = 1,000,000 "
            "bytes); a range in brackets is a confidence interval."
        ),
        element(
            "noscript",
            "The charts need JavaScript; the tables under them, and the rest of the page, do not.",
        ),
    )


def is_page(path: Path) -> bool:
    """Return whether a file is a page of ours, which a new one may take the place of."""
    with path.open("rb") as file:
        return _MARK.encode() in file.read(1000)


def _scripts() -> Html:
    from plotly.offline import get_plotlyjs

    return join([element("script", Html(get_plotlyjs())), element("script", _shipped("draw.js"))])


def _shipped(name: str) -> Html:
    return Html((files("nirvana_deploy.report") / name).read_text(encoding="utf-8"))
