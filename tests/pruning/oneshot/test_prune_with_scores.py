from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.allocation.allocation_config import GlobalThreshold, KlKnapsack, Uniform
from pruning.allocation.constraints import Constraints
from pruning.checkpoints.checkpoint import load_pruned
from pruning.cutting.output_difference import divergence, predictions_of
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from pruning.oneshot import prune_with_scores as module
from pruning.oneshot.fidelity import prove_equal
from pruning.oneshot.oneshot_config import (
    LeastSquares,
    MeanShift,
    NoRepair,
    OneShotConfig,
    ScoringConfig,
)
from pruning.oneshot.oneshot_figures import summarise
from pruning.oneshot.prune_with_scores import check_run, prune_with_scores
from pruning.plans.cost import make_cost_model, plan_cost
from pruning.plans.plan import PruningPlan
from pruning.scoring.score_model import load_dense, score_model
from pruning.scoring.scoring_run import ScoringRun
from pruning.training.training_configs import RecoveryConfig
from tests.pruning.oneshot.tiny_runs import oneshot, placed_in, scoring, write_model, write_text
from tests.pruning.training.tiny_tasks import write_rows


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, text: Path) -> dict[str, ScoringRun]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for task in ("causal-lm", "classification", "seq2seq"):
        source = write_model(folder / f"{task}-model", task)
        found[task] = score_model(source, scoring(text), folder / task)
    return found


@pytest.mark.parametrize("task", ["causal-lm", "classification", "seq2seq"])
@pytest.mark.parametrize("cost", ["macs", "parameters", "bytes"])
def test_every_budget_is_met_from_one_run(
    task: str, cost: Any, tmp_path: Path, runs: dict[str, ScoringRun]
) -> None:
    config = oneshot(cost=cost)
    figures = prune_with_scores(runs[task], [0.8, 0.45], config, placed_in(tmp_path))
    counted = make_cost_model(cost, 16)
    for budget, told in figures.items():
        folder = tmp_path / f"{budget:g}"
        plan = PruningPlan.load(folder / "plan.json")
        spent = plan_cost(plan, counted)
        whole = plan_cost(PruningPlan.dense(plan.dims, ""), counted)
        assert budget * whole - told["budget"]["unit_cost"] < spent <= budget * whole
        assert told["budget"]["spare_fraction"] == pytest.approx(budget - spent / whole)
        assert json.loads((folder / "figures.json").read_text()) == told
        assert [proof["left"] for proof in told["proofs"]] == ["repacked", "loaded"]
        assert plan.made_by["calibration_sha256"] == runs[task].calibration.sha256
        size = sum(p.numel() for p in load_pruned(folder / "checkpoint").parameters())
        assert size == told["pruned"]["num_parameters"] < told["dense"]["num_parameters"]
    # A tiny classifier's divergence is of the size of float32's rounding of its probabilities.
    more, less = (figures[budget]["held_out"]["kl_divergence"] for budget in (0.8, 0.45))
    assert more < less + 1e-6


def test_the_figures_are_those_of_the_checkpoint(
    tmp_path: Path, runs: dict[str, ScoringRun]
) -> None:
    run = runs["causal-lm"]
    told = prune_with_scores(run, [0.6], oneshot(), placed_in(tmp_path))[0.6]
    dense = load_dense(run.source, "auto").model
    pruned = load_pruned(tmp_path / "0.6" / "checkpoint").eval()
    batches = run.held_out.batches  # type: ignore[union-attr]
    with torch.no_grad():
        outputs = [[model(**batch) for model in (dense, pruned)] for batch in batches]
    kl = [divergence(predictions_of(one), predictions_of(other)) for one, other in outputs]
    assert told["held_out"]["kl_divergence"] == pytest.approx(sum(kl) / len(kl), rel=1e-4)
    loss = sum(float(other.loss) for _, other in outputs) / len(outputs)
    assert told["held_out"]["pruned_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_budget_of_all_changes_nothing(tmp_path: Path, runs: dict[str, ScoringRun]) -> None:
    told = prune_with_scores(runs["causal-lm"], [1], oneshot(), placed_in(tmp_path))[1]
    assert told["budget"]["spare_fraction"] == 0
    assert abs(told["held_out"]["kl_divergence"]) < 1e-5


def test_the_order_of_budgets_makes_no_difference(
    tmp_path: Path, runs: dict[str, ScoringRun]
) -> None:
    """The dense weights are back in place before each."""
    there = prune_with_scores(runs["seq2seq"], [0.7, 0.4], oneshot(), placed_in(tmp_path / "a"))
    back = prune_with_scores(runs["seq2seq"], [0.4, 0.7], oneshot(), placed_in(tmp_path / "b"))
    for budget in (0.4, 0.7):
        assert there[budget]["held_out"] == back[budget]["held_out"]


def test_repairs_are_told_apart(tmp_path: Path, runs: dict[str, ScoringRun]) -> None:
    found = {}
    for repair in (LeastSquares(), MeanShift(), NoRepair()):
        config = oneshot(repair=repair, cost="parameters")
        name = type(repair).__name__
        told = prune_with_scores(runs["classification"], [0.5], config, placed_in(tmp_path / name))
        assert told[0.5]["repair"] == name
        found[name] = told[0.5]["calibration"]["kl_divergence"]
    assert found["LeastSquares"] < found["MeanShift"] != found["NoRepair"]


@pytest.mark.parametrize("allocation", [Uniform(), GlobalThreshold(gamma=None)])
def test_another_allocation_takes_the_same_scores(
    allocation: Any, tmp_path: Path, runs: dict[str, ScoringRun]
) -> None:
    config = oneshot(allocation=allocation)
    told = prune_with_scores(runs["causal-lm"], [0.5], config, placed_in(tmp_path))[0.5]
    assert told["allocation"] == type(allocation).__name__


def test_damage_curves_serve_their_allocation_by_its_name_alone(
    tmp_path: Path, runs: dict[str, ScoringRun], text: Path
) -> None:
    named = oneshot(allocation=KlKnapsack())
    allocation = KlKnapsack(num_levels=4)
    source = runs["causal-lm"].source
    curved = score_model(source, scoring(text, allocation=allocation), tmp_path / "curved")
    check_run(curved, [0.5], named)
    flat = score_model(source, scoring(text, allocation=Uniform()), tmp_path / "flat")
    with pytest.raises(NirvanaError, match=r"was made for Uniform\(\), and has no damage curves"):
        check_run(flat, [0.5], named)


def test_recovery_trains_what_is_left(
    tmp_path: Path, runs: dict[str, ScoringRun], text: Path
) -> None:
    recovery = RecoveryConfig(max_steps=4, batch_size=8, learning_rate=1e-3)
    data = write_rows(tmp_path / "rows", "causal-lm")
    args = (runs["causal-lm"], [0.5])
    plain = prune_with_scores(*args, oneshot(), placed_in(tmp_path / "plain"))[0.5]
    config = oneshot(recovery=recovery)
    said: list[str] = []
    more = placed_in(tmp_path / "more")
    told = prune_with_scores(*args, config, more, data=data, say=said.append)[0.5]
    assert said[0].startswith("data: causal-lm by text_column ")
    assert (told["recovered"], plain["recovered"]) == (True, False)
    assert told["layers"] == plain["layers"]
    assert told["calibration"]["pruned_loss"] != plain["calibration"]["pruned_loss"]
    assert sorted(path.name for path in (tmp_path / "more" / "0.5").iterdir()) == [
        "checkpoint", "figures.json", "plan.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("budgets", "changes", "message"),
    [
        ([], {}, "Expected one budget or more, such as"),
        ([0.5, 0.0], {}, r"above 0 and at most 1 .*got 0\.0"),
        ([0.5, 1.2], {}, r"got 1\.2"),
        ([float("nan")], {}, "got nan"),
        ([0.5, 0.3, 0.5], {}, r"0\.5 was given twice"),
        (
            [0.9, 0.1],
            {"constraints": Constraints(may_drop=False, min_groups=3, neuron_multiple=8)},
            r"A budget of 0\.1 cannot be reached: .* leave at least 0\.\d+ of the blocks' macs",
        ),
        (
            [0.5],
            {"allocation": KlKnapsack(num_levels=5)},
            r"was made for KlKnapsack\(num_levels=12, .*has no damage curves as .*num_levels=5",
        ),
        (
            [0.5],
            {"scoring": ScoringConfig(saliency="flap")},
            r"made with other settings \(.*saliency: obs -> flap",
        ),
    ],
)
def test_what_a_run_cannot_serve_is_said_before_any_work(
    budgets: list[float],
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    runs: dict[str, ScoringRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "load_dense", None)
    with pytest.raises(NirvanaError, match=message):
        prune_with_scores(runs["causal-lm"], budgets, oneshot(**changes), placed_in(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_model_may_have_moved(tmp_path: Path, runs: dict[str, ScoringRun]) -> None:
    run = runs["causal-lm"]
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in Path(run.source).iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    place = placed_in(tmp_path / "out")
    assert prune_with_scores(run, [0.5], oneshot(), place, model=str(moved))


def test_another_model_is_refused(tmp_path: Path, runs: dict[str, ScoringRun]) -> None:
    run, place = runs["causal-lm"], placed_in(tmp_path / "out")
    other = write_model(tmp_path / "other", rms_norm_eps=1e-5)
    with pytest.raises(NirvanaError, match=r"is of another model than .*: its config has the hash"):
        prune_with_scores(run, [0.5], oneshot(), place, model=other)
    twin = write_model(tmp_path / "twin")
    model = load_dense(twin, "auto").model
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight += 1e-3
    model.save_pretrained(twin)
    with pytest.raises(NirvanaError, match=r"is of another model than .*twin: .*weights: \w+ ->"):
        prune_with_scores(run, [0.5], oneshot(), place, model=twin)


def test_a_repacked_model_that_is_not_the_masked_one_is_a_defect(
    tmp_path: Path, runs: dict[str, ScoringRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: Any, plan: Any) -> Any:
        smaller = repack(model, plan)
        next(smaller.parameters()).data += 0.1
        return smaller

    monkeypatch.setattr(module, "repack", spoil)
    with pytest.raises(NirvanaError, match="The repacked model does not compute what the masked"):
        prune_with_scores(runs["causal-lm"], [0.5], oneshot(), placed_in(tmp_path))


def test_nan_is_equal_to_nothing() -> None:
    nan = {"logits": torch.tensor([float("nan")])}
    with pytest.raises(NirvanaError, match="logits differs by inf"):
        prove_equal("loaded", "saved", nan, nan, 1, torch.float32)


def test_the_headline_says_what_was_kept_and_how_far_it_is_from_dense() -> None:
    part = {"kl_divergence": 0.125, "dense_loss": 2.0, "pruned_loss": 2.25}
    told = {
        "budget": {
            "cost": "macs", "asked_kept_fraction": 0.5, "kept_fraction": 0.499,
            "spare_fraction": 0.001,
        },
        "calibration": {**part, "dense_loss": None},
        "held_out": part,
        "dense": {"size_bytes": 2_000_000},
        "pruned": {"size_bytes": 1_000_000},
    }  # fmt: skip
    assert summarise(told) == [
        ("kept of the blocks' MACs", "49.90% (asked: 50.00%, 0.100% below)"),
        ("KL to dense, calibration", "0.1250 nats"),
        ("KL to dense, held out", "0.1250 nats (loss 2.000 -> 2.250)"),
        ("checkpoint size", "2.0 MB -> 1.0 MB"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, "budget must be a fraction above 0"),
        ({"cost": "watts"}, "cost must be one of macs, parameters, bytes"),
        ({"sequence_length": 0}, "sequence_length must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        OneShotConfig(**changes)
