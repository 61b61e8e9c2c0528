"""What the README and the quickstart's page say is run, or compared with what was measured."""

import json
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import torch

from nirvana_deploy.cli import main
from nirvana_deploy.runs.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
STEPS = (ROOT / "docs" / "quickstart.md").read_text()
_COMMAND = re.compile(r"^    ((?:nirvana|make) .*?)\s*(?:#.*)?$", flags=re.MULTILINE)
COMMANDS = _COMMAND.findall(STEPS)
# A run that takes minutes, cut down to seconds; every stage is still real.
SHORT = [
    *("--data.max_train_rows", "64", "--data.max_validation_rows", "32", "--data.max_length", "24"),
    *("--baseline.num_epochs", "1", "--prune.num_epochs", "5", "--prune.warm_start_rows", "32"),
    *("--profile.min_seconds", "0.1", "--profile.warmup_seconds", "0.1"),
    *("--profile.min_samples", "8", "--profile.length", "32"),
]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """A folder in which the quickstart has run as the README says, only shorter."""
    folder = tmp_path_factory.mktemp("readme")
    recipe = str(ROOT / "recipes" / "quickstart.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["deploy", recipe, *SHORT]) == 0
    return folder


def run_in(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> int:
    monkeypatch.chdir(folder)
    return main(command.split()[1:])


@pytest.mark.slow
@pytest.mark.tensorrt
@pytest.mark.triton
def test_the_quickstart_makes_every_folder(quickstart: Path) -> None:
    run = quickstart / "runs" / "quickstart"
    stages = ("baseline", "prune", "export", "build", "profile", "package")
    results = {s: json.loads((run / s / "manifest.json").read_text())["result"] for s in stages}
    budget = results["prune"]["budget"]
    assert 0 <= 0.5 * budget["dense_cost"] - budget["kept_cost"] < budget["unit_cost"]
    assert results["build"]["status"] == "built"
    assert results["build"]["num_fused_attentions"] == results["build"]["num_attention_layers"] == 6
    assert [case["batch"] for case in results["profile"]["cases"]] == [1, 8]
    assert (run / "report.html").stat().st_size > 10_000
    assert list((run / "package").rglob("config.pbtxt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if not c.startswith(("make", "nirvana deploy"))]
)
def test_the_commands_work(quickstart: Path, monkeypatch, command: str) -> None:
    if command.startswith("nirvana score"):
        command += " --calibration.num_sequences 8 --calibration.sequence_length 24"
        command += " --calibration.num_draws 1 --allocation.num_levels 3"
    if command.startswith("nirvana profile"):
        command += " --min_seconds 0.1 --warmup_seconds 0.1 --min_samples 8 --length 32"
    if command.startswith("nirvana sweep"):
        command += " --batch_sizes 1,2 --num_rounds 4 --num_requests 4 --length 32"
    assert run_in(quickstart, monkeypatch, command) == 0


def test_the_deploy_command_is_understood() -> None:
    (command,) = (c for c in COMMANDS if c.startswith("nirvana deploy"))
    flags = command.split()[3:]
    recipe = load_recipe(
        ROOT / command.split()[2], {"out": flags[1], "prune": {"budget": float(flags[3])}}
    )
    assert flags[::2] == ["--out", "--prune.budget"]
    assert (recipe.out, recipe.prune.budget) == ("runs/small", 0.35)


def test_the_make_commands_do_what_is_said() -> None:
    for target, expected in (
        ("demo", "nirvana deploy recipes/quickstart.yaml"),
        ("test", "pytest"),
    ):
        printed = subprocess.check_output(["make", "-n", target], cwd=ROOT, text=True)
        assert expected in printed
    assert _COMMAND.findall(README) == ["make demo", "make test"]


@pytest.mark.slow
def test_the_snippets_work(quickstart: Path, monkeypatch) -> None:
    """The first would run for minutes: its recipe is the one that has just run."""
    monkeypatch.chdir(quickstart)
    deployed, loaded = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert 'deploy("recipe.yaml", out="runs/mine")' in deployed
    short = quickstart / "runs" / "quickstart" / "recipe.yaml"
    said: dict = {}
    exec(deployed.replace("recipe.yaml", str(short)).replace("runs/mine", "runs/quickstart"), said)
    assert said["result"].skipped == ("baseline", "prune", "export", "build", "profile", "package")
    assert said["result"].checkpoint.is_dir()
    assert "runs/mine/prune/checkpoint" in loaded
    exec(loaded.replace("runs/mine", "runs/quickstart"), said)
    assert type(said["model"]).__qualname__ == "PrunedBertForSequenceClassification"


@pytest.mark.slow
def test_the_checkpoint_page_loads_both_ways(quickstart: Path, monkeypatch) -> None:
    monkeypatch.chdir(quickstart)
    page = (ROOT / "docs" / "checkpoint.md").read_text()
    code = re.search(r"^    from nirvana_deploy.*?^    \)$", page, re.DOTALL | re.MULTILINE)
    said: dict = {}
    exec(textwrap.dedent(code.group()), said)
    ours, stock = said["load"]("runs/quickstart/prune/checkpoint"), said["model"]
    states = ours.state_dict(), stock.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize(
    ("said", "result", "figure"),
    [
        ("{:.2f}x as fast at batch 8", "quickstart", "speed-up at batch 8"),
        ("in {:.0f} minutes on two cores", "quickstart", "demo wall time"),
        ("cost {:.2f} times the loss", "methods", "encoder: loss increase at 0.5"),
        ("{:.2f} times for a decoder", "methods", "decoder: loss increase at 0.5"),
        ("{:.2f} times for an encoder-decoder", "methods", "seq2seq: loss increase at 0.5"),
        ("pruned with {:.2f} GB of memory", "repack_large", "peak memory"),
        ("{:.0f} times faster than exporting", "surgeon", "MiniLM-L6: export again over load"),
    ],
)
def test_the_figures_are_those_of_the_benchmarks(said: str, result: str, figure: str) -> None:
    bars = json.loads((ROOT / f"benchmarks/results/{result}.json").read_text())["bars"]
    value = next(bar["value"] for bar in bars if bar["name"].startswith(figure))
    assert said.format(value) in " ".join(README.split())


def test_no_accuracy_was_lost() -> None:
    result = json.loads((ROOT / "benchmarks/results/quickstart.json").read_text())
    lost = next(bar for bar in result["bars"] if bar["name"].startswith("accuracy lost"))
    assert round(lost["value"], 1) == 0 and "no loss of accuracy" in " ".join(README.split())


def test_pictures_and_links_exist() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target
