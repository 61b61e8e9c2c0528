"""Starting quickly: what refuses a path or value, or only lists, imports no heavy library.

Imported modules are counted, not seconds: benchmarks/startup.py measures those.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "accelerate", "onnx", "onnx_ir", "scipy", "pandas")
CODE = f"""
import json, sys
from nirvana_deploy.cli import main
code = main(json.loads(sys.argv[1]))
heavy = [name for name in {HEAVY} if name in sys.modules]
sys.stderr.write("\\n" + json.dumps([code, heavy]))
"""

REFUSED = {
    "no model": "There is no model folder at",
    "no weights": "Expected a model with weights in",
    "no ONNX": "Expected an ONNX file at",
    "no plan": "Expected a pruning plan at",
    "no data": "There is no data file at",
    "used": "holds something already",
}
COMMANDS = [
    ("deploy --model ./no --out new", "no model"),
    ("deploy --model bare --out new", "no weights"),
    ("deploy --model whole --data.dataset no.csv --out new", "no data"),
    ("deploy no.yaml", "There is no recipe at"),
    ("deploy --model whole --prune.budget 7", "must be a fraction"),
    ("prune ./no --out new", "no model"),
    ("prune bare --out new", "no weights"),
    ("prune whole --data.dataset no.csv --out new", "no data"),
    ("prune whole --plan no.json --out new", "no plan"),
    ("prune --scores no --budget 0.5 --out new", "Expected a scoring run in"),
    ("prune --scores no --budget 7 --out new", "must be a fraction"),
    ("prune --scores no --budget 0.5 --out used", "used"),
    ("score ./no --out new", "no model"),
    ("score bare --out new", "no weights"),
    ("score whole --calibration.source no.txt --out new", "no data"),
    ("export ./no --out new", "no model"),
    ("export bare --out new", "no weights"),
    ("export whole --out used", "used"),
    ("export no.onnx --out new", "is ONNX already"),
    ("verify ./no whole", "no model"),
    ("verify no.onnx whole", "no ONNX"),
    ("build no.onnx --out new", "no ONNX"),
    ("build no.onnx --refit no --out new", "is missing"),
    ("run-engine no", "is missing"),
    ("profile ./no whole", "no model"),
    ("profile no.onnx whole", "no ONNX"),
    ("sweep bare", "Expected a checkpoint"),
    ("report no --out new.html", "There is nothing at"),
    ("package no.onnx --out new", "no ONNX"),
    ("package bare --to vllm --out new", "no weights"),
    ("serve no", "is missing"),
    ("surgeon no.onnx no.json -o new.onnx", "no plan"),
    ("inspect ./no", "no model"),
    ("inspect no.onnx", "no ONNX"),
    ("inspect used", "found no config.json there"),
    ("inspect bare --prove --bugdet 3", "unknown argument --bugdet"),
    ("targets no", "There is no target"),
    ("depoly", "did you mean deploy?"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("start")
    for name, files in {
        "bare": ["config.json"],
        "whole": ["config.json", "model.safetensors"],
        "used": ["thesis.txt"],
    }.items():
        (here / name).mkdir()
        for file in files:
            (here / name / file).write_text("{}")
    return here


def run(command: str, folder: Path) -> tuple[int, list[str], str]:
    process = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(command.split())],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    said, _, told = process.stderr.rpartition("\n")
    code, heavy = json.loads(told)
    return code, heavy, said + process.stdout


@pytest.mark.parametrize(("command", "message"), COMMANDS, ids=[c for c, _ in COMMANDS])
def test_a_refusal_imports_nothing_heavy(command: str, message: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    code, heavy, said = run(command, folder)
    assert code in (1, 2)
    assert REFUSED.get(message, message) in said
    assert heavy == []
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["doctor --json", "targets", "deploy --help-all", "--help"])
def test_what_only_lists_imports_nothing_heavy(command: str, folder: Path) -> None:
    code, heavy, _ = run(command, folder)
    assert (code, heavy) == (0, [])
