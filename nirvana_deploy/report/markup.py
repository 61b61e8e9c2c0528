"""HTML from strings that escapes by default: only what `element` made is taken as markup."""

import html
from collections.abc import Iterable, Sequence

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
