"""What docs/verify.md says: its commands and its script are run, its table is that of the gates."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from exporters.compare.compare_config import CompareConfig, choose_gates
from exporters.precision.convert_precision import convert_precision
from nirvana_deploy.cli import main
from tests.exporters.conftest import Exported

PAGE = (Path(__file__).parents[3] / "docs" / "verify.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bert.checkpoint, "checkpoint")
    shutil.copytree(bert.onnx, "onnx")
    for name in ("dense.onnx", "pruned.onnx"):
        shutil.copy(bert.onnx / "model.onnx", name)
    convert_precision(bert.onnx / "model.onnx", Path("int8/model.onnx"), "int8")
    return tmp_path


def test_the_commands_and_the_script_work_as_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for command in commands.strip().splitlines():
        program, *arguments = shlex.split(command)
        assert program == "nirvana"
        assert main(arguments) == 0, command
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    capsys.readouterr()
    exec(script, {})
    difference, agreement = capsys.readouterr().out.split()
    assert 0 < float(difference) < 1e-5
    assert float(agreement) == 1


def test_the_table_is_that_of_the_gates() -> None:
    header, *rows = re.findall(r"^\| (?:limit|`\w+`) \|.*\|$", PAGE, flags=re.MULTILINE)
    names = [cell.strip() for cell in header.strip("|").split("|")][2:]
    for row in rows:
        gate, _, *values = (cell.strip() for cell in row.strip("|").split("|"))
        for name, value in zip(names, values, strict=True):
            found = getattr(choose_gates((name,), CompareConfig()), gate.strip("`"))
            assert float(value) == found, (gate, name)
    assert len(rows) == 3
