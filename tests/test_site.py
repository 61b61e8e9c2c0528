"""The pages of the site that are made from the code; `make docs` builds all of it, strictly."""

import importlib.util
import re
from pathlib import Path

import pytest

import nirvana_deploy

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs", reason="mkdocs-material (extra docs) is not installed")
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_verb_and_its_flags(hooks) -> None:
    page = hooks.write_cli_page()
    assert re.findall(r"^## nirvana (\S+)$", page, re.MULTILINE) == list(hooks.VERB_NAMES)
    assert "`--prune.budget X`" in page and "`--out DIR`" in page


def test_a_recipe_has_every_section_and_both_ways_to_prune(hooks) -> None:
    page = hooks.write_recipe_page()
    for key in ("model", "data.dataset", "prune.schedule.num_stages", "package.to"):
        assert f"| `{key}` |" in page
    assert "## prune: PruneConfig" in page and "## prune: OneShotConfig" in page
    assert "`mean_shift`" in page


def test_every_public_name_is_described(hooks) -> None:
    named = re.findall(r"^::: nirvana_deploy\.(\w+)$", hooks.write_python_page(), re.MULTILINE)
    assert sorted(named) == sorted(nirvana_deploy.__all__)


def test_what_the_guides_name_exists() -> None:
    made = ("site/", "benchmarks/results/NAME.json")
    for page in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "formulas.md"):
        for path in re.findall(r"`((?:\w+/)+[\w.]*)`", page.read_text()):
            assert (ROOT / path).exists() or path in made, f"{page.name} names {path}"


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f"- {page}" not in listed] == []
