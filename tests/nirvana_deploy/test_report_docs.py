"""The commands of docs/report.md, and those that a page tells, are understood as they stand."""

import re
from pathlib import Path

import pytest

from nirvana_deploy import draw_report
from nirvana_deploy.cli import _parse
from tests.nirvana_deploy.stored_runs import make_plan

TEXT = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
COMMANDS = re.findall(r"^    (nirvana .*)$", TEXT, flags=re.MULTILINE)


def check(command: str) -> None:
    words = command.split()[1:]
    namespace = _parse(words)
    assert namespace is not None
    assert namespace.verb == words[0]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 10  # the pattern finds them


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_known(command: str) -> None:
    check(command)


def test_a_page_tells_commands_that_exist(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    make_plan(0.5).save(plan)
    page = draw_report([plan], out=tmp_path / "page.html").read_text()
    told = re.findall(r"<code>(nirvana .*?)</code>", page)
    assert len(told) >= 4
    for command in told:
        check(command)
