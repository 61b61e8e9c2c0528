"""Plans on the command line and in Python: written, edited, cut into a model, proven."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import nirvana_deploy as nd
from nirvana_deploy.cli import main
from tests.pruning.tiny_models import batch_for, make_tiny, uneven_plan


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tiny("llama").save_pretrained("llama")
    return tmp_path / "llama"


@pytest.mark.usefixtures("llama")
def test_a_plan_is_written_edited_and_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "llama", "--write_plan", "plans/mine.json"]) == 0
    plan = json.loads(Path("plans/mine.json").read_text())
    plan["layers"][0]["kept_heads"] = [2, 3]
    plan["layers"][1] = {**plan["layers"][1], "kept_heads": None, "kept_neurons": [0, 7]}
    Path("mine.json").write_text(json.dumps(plan))
    assert main(["prune", "llama", "--plan", "mine.json", "--out", "small"]) == 0
    captured = capsys.readouterr()
    assert "PrunedLlamaForCausalLM, trust_remote_code=True, or load()" in captured.out
    assert re.search(r"repack: (\d+) kB of \1 kB", captured.err)
    small = nd.load("small")
    assert small.model.layers[0].self_attn.k_proj.out_features == 8
    stock = AutoModelForCausalLM.from_pretrained("small", trust_remote_code=True).eval()
    batch = batch_for(small)
    assert torch.equal(stock(**batch).logits, small.eval()(**batch).logits)
    assert main(["inspect", "small"]) == 0
    assert "dropped" in capsys.readouterr().out


@pytest.mark.usefixtures("llama")
def test_a_pruned_model_is_cut_further() -> None:
    model = make_tiny("llama")
    plan = uneven_plan(model)
    nd.apply_plan("llama", plan, out="small")
    assert main(["inspect", "small", "--write_plan", "more.json"]) == 0
    more = nd.PruningPlan.load(Path("more.json"))
    assert more.layers == plan.layers
    layers = [nd.LayerPlan(kept_heads=(0,), kept_neurons=(1, 2)) for _ in range(3)]
    again = nd.plan_for(nd.load("small"), layers, method="again")
    seen: list[tuple[int, int]] = []
    result = nd.apply_plan("small", again, out="smaller", progress=lambda *now: seen.append(now))
    assert seen[-1] == (result.source_bytes, result.source_bytes)
    assert result.is_plain
    smaller, batch = nd.load("smaller").eval(), batch_for(model)
    with torch.no_grad():
        expected = nd.repack(model, again)(**batch).logits
        assert torch.equal(smaller(**batch).logits, expected)


@pytest.mark.usefixtures("llama")
def test_the_proof_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "llama", "--prove"]) == 0
    out = capsys.readouterr().out
    assert "Proven: 35 checks, repacked equals masked in each." in out
    assert nd.prove(make_tiny("llama")).holds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "mine.json", "--budget", "0.5"], "--budget is a setting for learning"),
        (["--plan", "mine.json", "--fine_tuned"], "--fine-tuned is a setting for learning"),
        (["--plan", "mine.json", "--data.max_length", "8"], "--data is a setting for learning"),
        (["--plan", "nowhere.json"], "Expected a pruning plan at nowhere.json"),
        (["--plan", "bert.json"], "The plan was made for model_type bert, the model has llama"),
        (["--plan", "wrong.json"], "Layer 1: head 6 is out of range; the model has 6"),
        (["--plan", "twice.json"], "Layer 0: kept neurons must be .*neuron 3 is there twice"),
    ],
)
@pytest.mark.usefixtures("llama")
def test_what_does_not_fit_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bert = make_tiny("bert")
    uneven_plan(bert).save(Path("bert.json"))
    assert main(["inspect", "llama", "--write_plan", "mine.json"]) == 0
    for name, layer, unit, kept in (
        ("wrong", 1, "kept_heads", [0, 6]),
        ("twice", 0, "kept_neurons", [3, 3]),
    ):
        plan = json.loads(Path("mine.json").read_text())
        plan["layers"][layer][unit] = kept
        Path(f"{name}.json").write_text(json.dumps(plan))
    assert main(["prune", "llama", "--out", "small", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not Path("small").exists()


@pytest.mark.usefixtures("llama")
def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("used").mkdir()
    Path("used/thesis.txt").write_text("years of work")
    Path("used.json").write_text("{}")
    assert main(["inspect", "llama", "--write_plan", "used.json"]) == 1
    assert "used.json exists already" in capsys.readouterr().err
    assert main(["inspect", "llama", "--write_plan", "mine.json"]) == 0
    assert main(["prune", "llama", "--plan", "mine.json", "--out", "used"]) == 1
    assert "The output folder used holds something already" in capsys.readouterr().err
    assert [path.name for path in Path("used").iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("llama")
def test_a_pruned_folder_is_not_proven(capsys: pytest.CaptureFixture[str]) -> None:
    nd.apply_plan("llama", uneven_plan(make_tiny("llama")), out="small")
    assert main(["inspect", "small", "--prove"]) == 1
    assert "Expected a dense model to prove, small was pruned before" in capsys.readouterr().err


def test_an_unwired_model_is_refused_before_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path)]) == 1
    assert "'mixtral' cannot be pruned: mixture-of-experts" in capsys.readouterr().err


def test_nan_weights_are_warned_of_in_one_line(
    llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    assert main(["inspect", "llama", "--prove"]) == 1
    captured = capsys.readouterr()
    warning = "warning: llama: 1 tensors hold NaN or infinity, the first is model.layers.1.mlp.up"
    assert [line for line in captured.err.splitlines() if line.startswith(warning)]
    assert "the model itself gives NaN" in captured.out
    uneven_plan(make_tiny("llama")).save(Path("mine.json"))
    assert main(["prune", "llama", "--plan", "mine.json", "--out", "small"]) == 0
    assert "WARNING: NaN or infinity in" in capsys.readouterr().out
