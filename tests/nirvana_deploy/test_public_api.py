"""The public names: all there, quick to import, nothing heavy behind them."""

import json
import subprocess
import sys

import pytest

import nirvana_deploy

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
    assert verbs <= set(nirvana_deploy.__all__)
    assert verbs <= set(dir(nirvana_deploy))


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
        "from nirvana_deploy.verbs.verb_list import VERBS",
        "from nirvana_deploy.deploy_stages import list_stages",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    code = f"import sys, json\n{statement}\nprint(json.dumps(list(sys.modules)))"
    loaded = set(json.loads(run_python(code)))
    assert not loaded & set(HEAVY)
