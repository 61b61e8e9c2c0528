"""What the README says is run, or held against what was measured."""

import json
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import torch

from nirvana_deploy.cli import main
from nirvana_deploy.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    ((?:nirvana|make) .*?)\s*(?:#.*)?$", README, flags=re.MULTILINE)
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
    assert [c for c in COMMANDS if c.startswith("make")] == ["make demo", "make test"]


@pytest.mark.slow
def test_the_snippets_work(quickstart: Path, monkeypatch) -> None:
    """The first would run for minutes: its recipe is the one that has just run."""
    monkeypatch.chdir(quickstart)
    deployed, loaded = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    short = quickstart / "runs" / "quickstart" / "recipe.yaml"
    said: dict = {}
    exec(deployed.replace("recipes/quickstart.yaml", str(short)), said)
    assert said["result"].skipped == ("baseline", "prune", "export", "build", "profile", "package")
    assert said["result"].checkpoint.is_dir()
    exec(loaded, said)
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


def test_the_figures_are_those_of_the_benchmark() -> None:
    exports = ("export_trace", "export_latency", "surgeon", "surgeon_large")
    names = ("quickstart", "repack_large", "methods", "scoring", *exports)
    results = [ROOT / "benchmarks" / "results" / f"{name}.json" for name in names]
    bars = [bar for path in results for bar in json.loads(path.read_text())["bars"]]
    rows = re.findall(r"^\| (.*?) \| ([\d.-]+) \| (.*?) \|$", README, flags=re.MULTILINE)
    said = {name: float(value) for name, value, _ in rows}
    assert len(said) >= 5
    measured = {bar["name"]: bar["value"] for bar in bars}
    assert said == {name: pytest.approx(measured[name], abs=0.006) for name in said}


def test_pictures_and_links_exist() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target
