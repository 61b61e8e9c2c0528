"""The imports of the product: no circle, no class name twice. Layers are import-linter's."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from house import find_circles, find_same_names, list_imports, read_modules  # noqa: E402


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return read_modules(ROOT)


def test_no_modules_import_each_other(texts: dict[str, str]) -> None:
    assert len(texts) > 100
    assert find_circles(list_imports(texts)) == []


def test_no_class_name_is_used_twice(texts: dict[str, str]) -> None:
    assert find_same_names(texts) == {}
