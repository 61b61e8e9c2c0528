"""docs/engines.md: its commands are understood, its settings exist, its recipe is read."""

import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporters.engines.engine_config import EngineConfig
from nirvana_deploy.cli import main
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.yaml_text import read_yaml

PAGE = (Path(__file__).parents[3] / "docs" / "engines.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}nirvana (build .*?)(?: {2,}#.*)?$", PAGE, re.MULTILINE)
COMMANDS += re.findall(r"^`nirvana (build [^`]*)`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str, tmp_path: Path, monkeypatch, capsys) -> None:
    calls: list[tuple[Any, ...]] = []

    def note(*given: Any) -> SimpleNamespace:
        calls.append(given)
        return SimpleNamespace(to_json=dict)

    for verb in ("build_engine", "refit_engine"):
        stand_in = SimpleNamespace(**{verb: note})
        monkeypatch.setitem(sys.modules, f"exporters.engines.{verb}", stand_in)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nirvana_deploy.api.engines.read_engine_manifest", lambda _: None)
    for name in ("model.onnx", "new.onnx"):
        Path(name).write_text("graph")
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    (given,) = calls
    if "--refit" in command:
        assert given[:2] == (Path("ENGINE_DIR"), Path("new.onnx"))
    else:
        assert given[0] == Path("model.onnx")
        assert given[2].require_fused_attention == ("--require-fused" in command)
        assert (given[2].flavour == "tensorrt") == ("--flavour tensorrt" in command)


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 5
    assert any("--refit" in command for command in COMMANDS)


def test_the_recipe_is_read(tmp_path: Path) -> None:
    block = re.search(r"^ {4}build:\n(?: {6}.*\n)+", PAGE, re.MULTILINE)
    assert block is not None
    (tmp_path / "recipe.yaml").write_text(block[0], encoding="utf-8")
    config = read_config(EngineConfig, read_yaml(tmp_path / "recipe.yaml")[0]["build"])
    assert [list(profile) for profile in config.profiles] == [["input_ids", "attention_mask"]] * 2


def test_every_option_in_the_table_is_a_setting() -> None:
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)) - {"default"}
    assert len(named) > 6
    assert named <= {field.name for field in fields(EngineConfig)}
