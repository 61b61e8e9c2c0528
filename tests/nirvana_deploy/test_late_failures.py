"""What could be noticed late is noticed early, and what fails late loses nothing."""

import subprocess
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from nirvana_deploy import Recipe, build, deploy
from nirvana_deploy.cli import main
from nirvana_deploy.profile_summary import describe_profile
from pruning.errors import MissingExtraError, NirvanaError
from tests.nirvana_deploy.fake_stages import make_stages, run_fake
from tests.nirvana_deploy.test_killed_run import SETTINGS
from tests.pruning.tiny_text import write_tiny_data, write_tiny_model


def test_missing_onnxruntime_is_said_before_any_training(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "nirvana_deploy.api.runs.find_spec",
        lambda name: None if name == "onnxruntime" else find_spec(name),
    )
    with pytest.raises(MissingExtraError, match="ONNX Runtime is not installed"):
        deploy(Recipe(model="model"), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_stage_that_was_skipped_is_tried_again(tmp_path: Path) -> None:
    train, cut, _ = make_stages()

    def skip(*_: object) -> dict[str, str]:
        return {"status": "skipped", "reason": "x is not installed.", "install": "pip install x"}

    skipping = type(cut)(name="cut", reads=cut.reads, settings=cut.settings, run=skip)
    run_fake(tmp_path / "r", stages=(train, skipping))
    outcome = run_fake(tmp_path / "r", stages=(train, cut))
    assert "cut" not in outcome.skipped
    assert outcome.results["cut"].get("status") != "skipped"


@pytest.mark.tensorrt
def test_the_log_of_a_failed_build_is_kept(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "sequence"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "sequence"])
    node = onnx.helper.make_node("Unheard", ["x"], ["y"], domain="nowhere")
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("nowhere", 1)]
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    with pytest.raises(NirvanaError, match="refused by the ONNX parser"):
        build(tmp_path / "model.onnx", out=tmp_path / "engine", num_attention_layers=0)
    assert not (tmp_path / "engine").exists()
    assert (tmp_path / "engine.build.log").read_text()


def test_doubts_stand_beside_the_figure() -> None:
    case = {
        "batch": 8,
        "length": 128,
        "dense": {"median_ms": 2.0},
        "pruned": {"median_ms": 1.0},
        "speedup": {"ratio": 2.0, "low": 1.9, "high": 2.1},
        "stationary": False,
        "other_cpu_fraction": 0.5,
    }
    ((_, said),) = describe_profile({"cases": [case]})
    assert said.endswith("(not stationary) (other programs took 50% of the CPUs)")
    ((_, said),) = describe_profile(
        {"cases": [{**case, "stationary": True, "other_cpu_fraction": 0.01}]}
    )
    assert said.endswith("[1.90, 2.10]")


def test_notes_are_told_once_and_of_which_cases_they_are() -> None:
    both, one, beside = "of two run-times", "varies by 3%", "other programs took 50% of the CPUs"
    case = {"length": 4, "dense": {"median_ms": 2.0}, "pruned": {"median_ms": 1.0}}
    case["speedup"] = {"ratio": 2.0, "low": 1.9, "high": 2.1}
    cases = [
        {**case, "batch": 1, "notes": [both, beside]},
        {**case, "batch": 8, "notes": [one, both]},
    ]
    told = [row for row in describe_profile({"cases": cases}) if row[0].startswith("note")]
    assert told == [("note", both), ("note, batch 8 x 4", one)]


def test_figures_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures.json").write_text("mine")
    assert main(["profile", "a.onnx", "b.onnx", "--out", str(tmp_path / "figures.json")]) == 1
    assert "exists already. Choose a new file" in capsys.readouterr().err
    assert (tmp_path / "figures.json").read_text() == "mine"


def test_real_training_on_a_full_disk_goes_on_with_room(
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, data = write_tiny_model(tmp_path / "model"), write_tiny_data(tmp_path / "data")
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    out = str(small_disk / "run")
    command = ["prune", str(model), "--data.dataset", str(data), *flags, "--out", out]
    assert main(command) == 1
    assert "The disk is full: stage " in capsys.readouterr().err
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(command) == 0
    assert (small_disk / "run" / "prune" / "checkpoint" / "model.safetensors").is_file()
