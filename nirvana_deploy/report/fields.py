"""Tolerant reading of a stage's JSON: an absent, ill-typed or non-finite value reads as None.

The page must show every run, also an interrupted or an older one, so nothing here raises.
"""

import math
from collections.abc import Mapping


class Fields:
    """A JSON object whose values are asked for by kind."""

    __slots__ = ("_values",)

    def __init__(self, values: object) -> None:
        self._values: Mapping[str, object] = values if isinstance(values, Mapping) else {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def number(self, key: str) -> float | None:
        """Read a finite number."""
        return _finite(self._values.get(key))

    def count(self, key: str) -> int | None:
        """Read a whole number."""
        value = self.number(key)
        return None if value is None else round(value)

    def text(self, key: str) -> str | None:
        """Read a string that is not empty."""
        value = self._values.get(key)
        return value if isinstance(value, str) and value else None

    def flag(self, key: str) -> bool | None:
        """Read a boolean."""
        value = self._values.get(key)
        return value if isinstance(value, bool) else None

    def part(self, key: str) -> "Fields":
        """Read a nested object; an absent one is empty."""
        return Fields(self._values.get(key))

    def rows(self, key: str) -> tuple["Fields", ...]:
        """Read a list of objects; what is not an object is left out."""
        return tuple(Fields(value) for value in self._listed(key) if isinstance(value, Mapping))

    def numbers(self, key: str) -> tuple[float, ...]:
        """Read a list of finite numbers; the others are left out."""
        found = (_finite(value) for value in self._listed(key))
        return tuple(value for value in found if value is not None)

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list of strings."""
        return tuple(value for value in self._listed(key) if isinstance(value, str))

    def names(self) -> tuple[str, ...]:
        """List the keys in the order stored."""
        return tuple(self._values)

    def value(self, key: str) -> object:
        """Return what is stored, of whatever kind."""
        return self._values.get(key)

    def flattened(self) -> tuple[tuple[str, str], ...]:
        """List every leaf as (path of keys, value as text), nested keys joined by a dot."""
        return tuple(_flatten("", self._values))

    def _listed(self, key: str) -> list[object]:
        value = self._values.get(key)
        return value if isinstance(value, list) else []


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _flatten(path: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        pairs = ((f"{path}.{key}" if path else str(key), child) for key, child in value.items())
        return [leaf for child_path, child in pairs for leaf in _flatten(child_path, child)]
    if isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        numbered = enumerate(value)
        return [leaf for index, child in numbered for leaf in _flatten(f"{path}.{index}", child)]
    return [(path, _leaf_text(value))] if path else []


def _leaf_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "not known"
    if isinstance(value, list):
        return ", ".join(_leaf_text(child) for child in value) or "none"
    return "not known" if value is None or value in ("", {}) else str(value)
