import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from pruning.allocation.constraints import Constraints
from pruning.checkpoints.checkpoint import load_plan, load_pruned
from pruning.errors import NirvanaError
from pruning.gates.gate_kinds import HardConcrete
from pruning.gates.prune_config import FixedPenalty, PruneConfig, ScheduleConfig
from pruning.gates.prune_stage import run_prune
from pruning.plans.cost import MacCost, dense_cost, plan_cost
from pruning.plans.plan import LayerPlan
from pruning.plans.plan_figures import describe_layers
from pruning.training.baseline_stage import run_baseline
from pruning.training.resumable_training import COMPLETE_FILE, find_whole_checkpoint
from pruning.training.training_configs import BaselineConfig
from tests.pruning.tiny_models import make_tiny, uneven_plan
from tests.pruning.tiny_text import write_tiny_model

CONFIG = PruneConfig(
    budget=0.5,
    num_epochs=4,
    batch_size=8,
    learning_rate=3e-3,
    gate_learning_rate=0.3,
    save_steps=5,
    warm_start_rows=16,
    sequence_length=16,
    bf16=False,
)
BASELINE = BaselineConfig(num_epochs=6, learning_rate=2e-3, batch_size=8)


@pytest.fixture(scope="module")
def pruned(tiny_baseline: Path, tiny_data, tmp_path_factory) -> tuple[Path, dict]:
    out_dir = tmp_path_factory.mktemp("pruned")
    return out_dir, run_prune(tiny_baseline / "checkpoint", tiny_data, CONFIG, out_dir)


def test_the_baseline_learns_the_task(tiny_baseline: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_baseline / "checkpoint")
    assert model.config.id2label == {0: "games", 1: "mail", 2: "math"}


def test_the_budget_is_met_within_one_unit(pruned) -> None:
    out_dir, result = pruned
    plan = load_plan(out_dir / "checkpoint")
    cost = MacCost(16)
    left = 0.5 * dense_cost(plan.dims, cost) - plan_cost(plan, cost)
    assert 0 <= left < 8 * cost.neuron_cost(plan.dims.layers[0])
    assert result["budget"]["kept_fraction"] == plan_cost(plan, cost) / dense_cost(plan.dims, cost)


def test_the_checkpoint_is_what_the_result_says(pruned) -> None:
    out_dir, result = pruned
    model = load_pruned(out_dir / "checkpoint")
    assert sum(p.numel() for p in model.parameters()) == result["pruned"]["num_parameters"]
    blocks = model.base_model.encoder.layer
    kept = [
        (block.attention.output.dense.in_features // 8, block.output.dense.in_features)
        for block in blocks
    ]
    said = [(len(row["kept_heads"]), row["num_kept_neurons"]) for row in result["layers"]]
    assert kept == said
    assert result["pruned"]["accuracy"] > 0.8, "the tiny task is easy"


def test_four_stages_are_validated_on_the_way_down(pruned) -> None:
    _, result = pruned
    stages = [v for v in result["validations"] if v["step"] <= 19]
    assert [v["pruning_stage"] for v in stages] == [1, 2, 3, 4]
    assert [v["target_kept_fraction"] for v in stages] == [0.875, 0.75, 0.625, 0.5]
    assert stages[-1]["kept_fraction"] == pytest.approx(result["budget"]["kept_fraction"])
    assert 0 <= result["undecided_fraction"] <= 1
    assert {p["left"]: p["bitwise_equal"] for p in result["proofs"]}["loaded"] is True


def test_masks_stay_frozen_after_the_last_stage(pruned) -> None:
    _, result = pruned
    after = [c["kept_fraction"] for c in result["curve"] if c["step"] >= 20]
    assert after
    assert set(after) == {after[0]}


def test_the_same_seed_gives_the_same_bits(pruned, tiny_baseline, tiny_data, tmp_path) -> None:
    out_dir, result = pruned
    again = run_prune(tiny_baseline / "checkpoint", tiny_data, CONFIG, tmp_path)
    assert again["curve"] == result["curve"]
    assert same_weights(out_dir, tmp_path)


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_pruned(folder / "checkpoint").state_dict() for folder in (one, other))
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fixed_penalty_closes_gates_and_still_meets_the_budget(
    tiny_baseline, tiny_data, tmp_path
) -> None:
    config = replace(CONFIG, objective=FixedPenalty(alpha=0.1, beta=0.1), warm_start_rows=0)
    result = run_prune(tiny_baseline / "checkpoint", tiny_data, config, tmp_path)
    learning = [v["kept_fraction"] for v in result["validations"][:3]]
    assert learning[-1] < 0.999, "the penalty closed nothing"
    assert result["objective"] == "fixed_penalty"
    left = 0.5 - result["budget"]["kept_fraction"]
    assert 0 <= left * result["budget"]["dense_cost"] < result["budget"]["unit_cost"]


def test_an_impossible_budget_is_refused_before_anything_is_saved(
    tiny_baseline, tiny_data, tmp_path
) -> None:
    with pytest.raises(NirvanaError, match="cannot be reached"):
        config = replace(CONFIG, budget=0.01, constraints=Constraints(may_drop=False))
        run_prune(tiny_baseline / "checkpoint", tiny_data, config, tmp_path)
    assert not (tmp_path / "trainer").exists(), "it was found before any training"


KILLED = """
import sys
from pathlib import Path
from tests.pruning.gates.test_prune_stage import CONFIG
from pruning.tasks.data_config import DataConfig
from pruning.gates.prune_stage import run_prune
data = DataConfig(dataset=sys.argv[2], max_length=16)
run_prune(Path(sys.argv[1]), data, CONFIG, Path(sys.argv[3]))
"""


def test_a_kill_in_the_middle_resumes_to_the_same_bits(
    pruned, tiny_baseline, tiny_data, tmp_path
) -> None:
    arguments = [str(tiny_baseline / "checkpoint"), tiny_data.dataset, str(tmp_path)]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], cwd=root)
    mark = tmp_path / "trainer" / "checkpoint-10" / COMPLETE_FILE
    while not mark.exists():  # pruning has begun, and is not done
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "checkpoint").exists()
    # What a kill in the middle of a save leaves: newer, and not whole.
    last = find_whole_checkpoint(tmp_path / "trainer")
    broken = last.with_name("checkpoint-999")
    shutil.copytree(last, broken)
    (broken / COMPLETE_FILE).unlink()
    (broken / "model.safetensors").write_bytes(b"half")

    out_dir, whole = pruned
    result = run_prune(tiny_baseline / "checkpoint", tiny_data, CONFIG, tmp_path)
    assert result["curve"] == whole["curve"]
    assert result["validations"] == whole["validations"]
    assert result["undecided_fraction"] == whole["undecided_fraction"]
    assert same_weights(out_dir, tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["made_by"]["method"] == "gates"


def test_training_in_bf16_leaves_fp32_models(tiny_baseline, tiny_data, tmp_path) -> None:
    config = replace(CONFIG, num_epochs=2, schedule=ScheduleConfig(num_stages=1), bf16=True)
    result = run_prune(tiny_baseline / "checkpoint", tiny_data, config, tmp_path)
    assert all(proof["max_abs_difference"] < 1e-5 for proof in result["proofs"])


@pytest.mark.gpu
def test_pruning_works_on_a_gpu(tiny_baseline, tiny_data, tmp_path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that torch sees")
    result = run_prune(tiny_baseline / "checkpoint", tiny_data, CONFIG, tmp_path)
    assert all(proof["max_abs_difference"] < 1e-4 for proof in result["proofs"])


def test_the_trainer_never_moves_the_gates(tiny_baseline, tiny_data, tmp_path) -> None:
    config = replace(
        CONFIG,
        gate_learning_rate=1e-12,
        learning_rate=1e-2,
        num_epochs=2,
        schedule=ScheduleConfig(num_stages=1),
    )
    result = run_prune(tiny_baseline / "checkpoint", tiny_data, config, tmp_path)
    learning = [c["kept_fraction"] for c in result["curve"] if c["step"] < 9]
    assert set(learning) == {1.0}, "open gates stay open when their own step is nil"


def test_a_pruned_checkpoint_is_refused(pruned, tiny_data, tmp_path) -> None:
    checkpoint = pruned[0] / "checkpoint"
    message = r"Expected a dense model .* was pruned before.*nirvana prune MODEL --plan"
    with pytest.raises(NirvanaError, match=message):
        run_prune(checkpoint, tiny_data, CONFIG, tmp_path)
    with pytest.raises(NirvanaError, match=message):
        run_baseline(str(checkpoint), tiny_data, BaselineConfig(), tmp_path)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_decoders_and_encoder_decoders_go_the_same_way(name: str, tiny_data, tmp_path) -> None:
    source = write_tiny_model(tmp_path / "source", name)
    run_baseline(str(source), tiny_data, BASELINE, tmp_path / "baseline")
    result = run_prune(tmp_path / "baseline" / "checkpoint", tiny_data, CONFIG, tmp_path / "out")
    left = 0.5 - result["budget"]["kept_fraction"]
    assert 0 <= left * result["budget"]["dense_cost"] < result["budget"]["unit_cost"]
    assert all(proof["max_abs_difference"] < 1e-5 for proof in result["proofs"])
    assert result["pruned"]["accuracy"] > 0.8, "the tiny task is easy"


def test_layers_are_described_for_every_stack() -> None:
    model = make_tiny("t5")
    plan = uneven_plan(model)
    layers = (*plan.layers[:5], LayerPlan.drop_block())
    rows = describe_layers(replace(plan, layers=layers))
    assert [row["layer"] for row in rows] == list(range(6))
    assert [row["stack"] for row in rows] == ["encoder"] * 3 + ["decoder"] * 3
    assert [row["dropped"] for row in rows] == [False] * 5 + [True]
    assert rows[-1]["attention_dropped"] and rows[-1]["mlp_dropped"]
    assert "kept_cross_heads" not in rows[0]
    assert rows[3]["kept_cross_heads"] == list(layers[3].kept_cross_heads)
    assert rows[-1]["kept_cross_heads"] == [] and rows[-1]["cross_attention_dropped"]


def test_inputs_longer_than_the_model_are_refused(tiny_model_dir, tiny_data, tmp_path) -> None:
    data = replace(tiny_data, max_length=81)
    with pytest.raises(NirvanaError, match="max_length is 81, but bert here has 80 positions"):
        run_baseline(str(tiny_model_dir), data, BaselineConfig(), tmp_path)


def test_a_baseline_resumes_from_its_last_checkpoint(tiny_model_dir, tiny_data, tmp_path) -> None:
    config = BaselineConfig(num_epochs=2, batch_size=8, save_steps=5)
    first = run_baseline(str(tiny_model_dir), tiny_data, config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoint")
    again = run_baseline(str(tiny_model_dir), tiny_data, config, tmp_path)
    assert again["curve"] == first["curve"]
    assert again["num_steps"] == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, "budget must be a fraction above 0 and at most 1.*got 0.0"),
        ({"budget": 1.5}, "budget must be a fraction above 0 and at most 1.*got 1.5"),
        ({"num_epochs": 0}, "num_epochs must be above 0, got 0"),
        ({"warm_start_rows": -1}, "warm_start_rows must be 0 or more"),
        ({"cost": "mac"}, "cost must be one of macs, parameters, bytes, got 'mac'"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        replace(CONFIG, **changes)


def assert_budget_and_proofs(out_dir: Path, result: dict) -> None:
    plan, cost = load_plan(out_dir / "checkpoint"), MacCost(16)
    left = 0.5 * dense_cost(plan.dims, cost) - plan_cost(plan, cost)
    assert 0 <= left < result["budget"]["unit_cost"]
    assert [(p["left"], p["right"]) for p in result["proofs"]] == [
        ("repacked", "masked"),
        ("loaded", "saved"),
    ]
    assert all(proof["max_abs_difference"] < 1e-5 for proof in result["proofs"])


def test_hard_concrete_gates_go_the_same_way(tiny_baseline, tiny_data, tmp_path) -> None:
    """Their masks scale what they keep: repacked is masked only if that is worked in."""
    config = replace(CONFIG, gate_kind=HardConcrete())
    result = run_prune(tiny_baseline / "checkpoint", tiny_data, config, tmp_path)
    assert_budget_and_proofs(tmp_path, result)
    assert load_plan(tmp_path / "checkpoint").made_by["gates"] == "hard_concrete"
    stages = result["validations"][:4]
    assert [v["target_kept_fraction"] for v in stages] == [0.875, 0.75, 0.625, 0.5]


def test_gates_that_start_at_the_budget_stay_there_and_resume(
    pruned, tiny_baseline, tiny_data, tmp_path
) -> None:
    schedule = ScheduleConfig(kind="at_budget", num_stages=1)
    # Nearer to the budget than one unit is from the start, as gates hardly move.
    config = replace(CONFIG, schedule=schedule, warm_start="obs", gate_learning_rate=1e-12)
    result = run_prune(tiny_baseline / "checkpoint", tiny_data, config, tmp_path)
    assert_budget_and_proofs(tmp_path, result)
    assert {c["target_kept_fraction"] for c in result["curve"]} == {0.5}
    slack = result["budget"]["unit_cost"] / result["budget"]["dense_cost"]
    assert all(0.5 - slack < c["kept_fraction"] <= 0.5 for c in result["curve"])
    assert result["pruned"]["accuracy"] > 0.8, "the tiny task is easy"
    assert result["dense"] == pruned[1]["dense"], "the repair reached the teacher"

    once = load_pruned(tmp_path / "checkpoint").state_dict()
    last = find_whole_checkpoint(tmp_path / "trainer")
    shutil.rmtree(last)
    assert find_whole_checkpoint(tmp_path / "trainer") is not None
    shutil.rmtree(tmp_path / "checkpoint")
    again = run_prune(tiny_baseline / "checkpoint", tiny_data, config, tmp_path)
    assert again["curve"] == result["curve"]
    found = load_pruned(tmp_path / "checkpoint").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in once.items())
