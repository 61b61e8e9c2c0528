"""The public names: all there, quick to import, nothing heavy behind them."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nirvana_deploy
import nirvana_deploy.api

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "datasets")


TRAINING = (
    "attach_gates",
    "finish_gates",
    "PruningCallback",
    "Distillation",
    "recover",
    "load_text",
)


@pytest.mark.parametrize("name", (*nirvana_deploy.__all__, *TRAINING))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(nirvana_deploy, name).__name__ == name


def test_the_verbs_are_public() -> None:
    verbs = {"deploy", "prune", "export", "build", "profile", "package", "load"}
    verbs |= {
        "score",
        "serve",
        "prune_from_scores",
        "apply_plan",
        "plan_for",
        "repack",
        "save_pruned",
        "prove",
    }
    verbs |= {"surgeon", "inspect", "verify", "targets", "doctor", "sweep", "draw_report"}
    assert verbs <= set(nirvana_deploy.__all__)


def test_dir_shows_the_public_names_and_nothing_else() -> None:
    assert {name for name in dir(nirvana_deploy) if not name.startswith("__")} == {
        *nirvana_deploy.__all__,
        *TRAINING,
    }


def test_type_checkers_see_the_names_that_there_are() -> None:
    source = ast.parse(Path(str(nirvana_deploy.__file__)).read_text())
    (block,) = (
        node
        for node in source.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = nirvana_deploy._HOME_OF
    assert seen == {name: f"{home}.{name}" for name, home in homes.items()}


def test_every_function_of_the_api_is_public() -> None:
    found = set()
    for module in pkgutil.iter_modules(nirvana_deploy.api.__path__):
        home = importlib.import_module(f"nirvana_deploy.api.{module.name}")
        found |= {
            name
            for name, value in vars(home).items()
            if inspect.isfunction(value)
            and value.__module__ == home.__name__
            and not name.startswith("_")
        }
    assert found == {n for n, home in nirvana_deploy._HOME_OF.items() if ".api." in home}


def test_the_api_imports_nothing_of_the_command_line() -> None:
    for path in Path(str(nirvana_deploy.__file__)).parent.rglob("*.py"):
        inside = path.parent.name == "verbs" or path.name in ("cli.py", "__main__.py")
        assert inside or not re.search(r"nirvana_deploy\.(verbs|cli)\b", path.read_text()), path


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'deplooy'"):
        nirvana_deploy.deplooy  # noqa: B018


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_import_is_quick() -> None:
    code = (
        "import time; start = time.perf_counter()\n"
        "import nirvana_deploy; print(time.perf_counter() - start)"
    )
    # The best of three: the first one may have to compile, and other work may be going on.
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


@pytest.mark.parametrize(
    "statement",
    [
        "import nirvana_deploy",
        "from nirvana_deploy import *",
        "from nirvana_deploy.verbs.verb import VERB_NAMES as v, load_verb\nlist(map(load_verb, v))",
        "from nirvana_deploy.runs.deploy_stages import list_stages",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    code = f"import sys, json\n{statement}\nprint(json.dumps(list(sys.modules)))"
    loaded = set(json.loads(run_python(code)))
    assert not loaded & set(HEAVY)
