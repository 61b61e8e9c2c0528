"""ROUGE-L: how much of a text's words another has in the same order (Lin 2004, section 3.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def score_rouge_l(written: Iterable[str], expected: Iterable[str]) -> float:
    """Return the mean F-measure (precision and recall weigh the same) of pairs of texts, 0..1.

    Words are runs of letters and digits in lower case, without stemming. Two texts without any
    word score 0.
    """
    pairs = list(zip(written, expected, strict=True))
    return sum(_f_measure(_words(a), _words(b)) for a, b in pairs) / max(1, len(pairs))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _f_measure(written: Sequence[str], expected: Sequence[str]) -> float:
    return 2 * longest_common(written, expected) / max(1, len(written) + len(expected))


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    above = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for column, against in enumerate(other):
            row.append(above[column] + 1 if word == against else max(above[column + 1], row[-1]))
        above = row
    return above[-1]
