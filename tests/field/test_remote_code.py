"""Code that a model's folder brings along runs only where it was asked for, and nothing asks."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoTokenizer

from nirvana_deploy import (
    Recipe,
    allow_remote_code,
    apply_plan,
    export,
    load,
    prune_from_scores,
    score,
)
from nirvana_deploy.cli import main
from pruning.checkpoints.model_source import load_stock_model
from pruning.cutting.inspection import inspect_model, read_current_plan
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import NoRepair
from tests.pruning.oneshot.tiny_runs import oneshot, scoring, write_model, write_text
from tests.pruning.tiny_models import make_tiny
from tests.pruning.tiny_text import write_tiny_model

ROOT = Path(__file__).parents[2]
CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
(Path({ran!r})).write_text("x")
class OwnConfig(BertConfig):
    model_type = "{model_type}"
class OwnModel(BertModel):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def write_own_model(folder: Path, model_type: str) -> Path:
    """Write a model whose folder holds code; return the file that the code leaves when it runs."""
    ran = folder.parent / "RAN"
    make_tiny("bert").base_model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "architectures": ["BertModel" if model_type == "bert" else "OwnModel"],
        "auto_map": {"AutoConfig": "own_code.OwnConfig", "AutoModel": "own_code.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own_code.py").write_text(CODE.format(ran=str(ran), model_type=model_type))
    return ran


@pytest.mark.parametrize("verb", ["inspect", "export", "score", "prune", "profile", "verify"])
def test_every_verb_refuses_it_in_our_words(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = write_own_model(tmp_path / "own", "nirvana-unknown")
    model = str(tmp_path / "own")
    (tmp_path / "plan.json").write_text("{}")
    rest = {
        "inspect": [],
        "export": ["--out", str(tmp_path / "out")],
        "score": ["--out", str(tmp_path / "out")],
        "prune": ["--out", str(tmp_path / "out"), "--fine_tuned"],
        "profile": [model],
        "verify": [model],
    }[verb]
    assert main([verb, model, *rest]) == 1
    told = capsys.readouterr().err
    assert "needs code of its own (own_code.py), and that was not run" in told
    assert "--trust-remote-code" in told
    assert "[y/N]" not in told
    assert not ran.exists()
    assert not (tmp_path / "out").exists()


def test_a_terminal_and_yes_change_nothing(tmp_path: Path) -> None:
    ran = write_own_model(tmp_path / "own", "nirvana-unknown")
    main_end, terminal = pty.openpty()
    os.write(main_end, b"y\n" * 20)
    done = subprocess.run(
        [sys.executable, "-m", "nirvana_deploy", "inspect", "own"],
        cwd=tmp_path,
        stdin=terminal,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    os.close(main_end)
    os.close(terminal)
    assert done.returncode == 1
    assert "was not run" in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not ran.exists()


def test_it_runs_where_it_is_trusted(tmp_path: Path) -> None:
    ran = write_own_model(tmp_path / "own", "nirvana-unknown")
    with allow_remote_code():
        config = load_stock_model(AutoConfig, str(tmp_path / "own"))
        model = load_stock_model(AutoModel, str(tmp_path / "own"))
    assert (type(config).__name__, type(model).__name__) == ("OwnConfig", "OwnModel")
    assert ran.exists()
    with pytest.raises(NirvanaError, match="that was not run"):  # no longer
        load_stock_model(AutoConfig, str(tmp_path / "own"))


def test_inspect_takes_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = write_own_model(tmp_path / "own", "nirvana-unknown")
    main(["inspect", str(tmp_path / "own"), "--trust-remote-code"])
    assert ran.exists()
    assert "not run" not in capsys.readouterr().err


def test_code_of_a_known_type_stays_unused(tmp_path: Path) -> None:
    ran = write_own_model(tmp_path / "own", "bert")
    assert inspect_model(str(tmp_path / "own")).architecture == "BertModel"
    assert type(load_stock_model(AutoModel, str(tmp_path / "own"))).__name__ == "BertModel"
    assert not ran.exists()


def test_code_of_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "own")
    ran = tmp_path / "RAN"
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    told["tokenizer_class"] = "OwnTokenizer"
    told["auto_map"] = {"AutoTokenizer": [None, "own_code.OwnTokenizer"]}
    path.write_text(json.dumps(told))
    (folder / "own_code.py").write_text(CODE.format(ran=str(ran), model_type="bert"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nirvana-unknown"}))
    with pytest.raises(NirvanaError, match=r"needs code of its own \(own_code\.py\)"):
        load_stock_model(AutoTokenizer, str(folder))
    assert not ran.exists()


def test_our_own_checkpoints_load_without_their_code(tmp_path: Path) -> None:
    make_tiny("bert").save_pretrained(tmp_path / "dense")
    plan = read_current_plan(str(tmp_path / "dense"))
    apply_plan(tmp_path / "dense", plan, out=tmp_path / "pruned")
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())
    before = set(sys.modules)
    assert load(tmp_path / "pruned").config.model_type == config["model_type"]
    assert inspect_model(str(tmp_path / "pruned"))
    assert not [name for name in set(sys.modules) - before if "transformers_modules" in name]


@pytest.mark.parametrize("allowed", [False, True])
def test_exports_and_scoring_runs_record_it(tmp_path: Path, allowed: bool) -> None:
    model = write_model(tmp_path / "model")
    with allow_remote_code(allowed):
        export(model, out=tmp_path / "export")
        config = scoring(write_text(tmp_path / "text"), {"num_draws": 1})
        score(model, config, out=tmp_path / "run")
        settings = oneshot(repair=NoRepair())
        (made,) = prune_from_scores(tmp_path / "run", [0.5], settings, out=tmp_path / "pruned")
    for path in ("export/export.json", "run/manifest.json"):
        assert json.loads((tmp_path / path).read_text())["trust_remote_code"] is allowed
    assert made.figures["trust_remote_code"] is allowed


def test_the_recipe_says_it(tmp_path: Path) -> None:
    assert not Recipe(model="m").trust_remote_code
    assert Recipe(model="m", trust_remote_code=True).trust_remote_code
