"""Reads a page as a browser would: its text, its tags, its charts."""

import json
import re
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """The visible text, the tags with attributes, and the charts' stored JSON."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.charts: list[Any] = []
        self.title = ""
        self._open = ""
        self._stored: str | None = None
        self.feed(source)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        self._stored = "" if dict(attrs).get("class") == "chart-data" else None

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._stored is not None:
            assert "<" not in self._stored, "could end the script early"
            self.charts.append(json.loads(self._stored))
            self._stored = None
        self._open = ""
        if tag in ("td", "th", "p", "dt", "dd", "h1", "h2", "li", "span"):
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            if self._stored is not None:
                self._stored += data
        elif self._open == "title":
            self.title += data
        elif self._open != "style":
            self.words.append(data)
