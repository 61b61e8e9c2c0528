"""The commands of docs/targets.md and docs/measuring.md are understood as they stand there."""

import re
from pathlib import Path

import pytest

from nirvana_deploy.cli import _parse, main
from nirvana_deploy.runs.recipe import load_recipe

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "targets.md").read_text() + (DOCS / "measuring.md").read_text()
COMMANDS = re.findall(r"^    (nirvana .*?)\s*(?:#.*)?$", TEXT, flags=re.MULTILINE)


def test_the_recipe_is_read(tmp_path: Path) -> None:
    (line,) = re.findall(r"^    (latency: .*)$", TEXT, flags=re.MULTILINE)
    (tmp_path / "my.yaml").write_text(f"model: m\n{line}\n")
    asked = load_recipe(tmp_path / "my.yaml").latency
    assert asked is not None and asked.at_most == "12.5ms" and asked.table.batch == 1


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8  # the pattern finds them


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_known(command: str) -> None:
    words = command.split()[1:]
    namespace = _parse(words)
    assert namespace is not None and namespace.verb == words[0]


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c in ("nirvana targets", "nirvana targets l4")]
)
def test_what_needs_no_model_runs(command: str) -> None:
    assert main(command.split()[1:]) == 0
