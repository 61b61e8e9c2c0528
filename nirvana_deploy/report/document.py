"""The document around a page's body: head, policy, style, scripts. Nothing in it is fetched."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from nirvana_deploy.report.markup import Html, element, join, paragraph
from pruning.write_aside import write_aside

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


def write_page(path: Path, page: str) -> None:
    """Write a page aside and rename it."""
    with write_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def is_page(path: Path) -> bool:
    """Return whether a file is a page of ours, which a new one may take the place of."""
    with path.open("rb") as file:
        return _MARK.encode() in file.read(1000)


def _scripts() -> Html:
    from plotly.offline import get_plotlyjs

    return join([element("script", Html(get_plotlyjs())), element("script", _shipped("draw.js"))])


def _shipped(name: str) -> Html:
    return Html((files("nirvana_deploy.report") / name).read_text(encoding="utf-8"))
