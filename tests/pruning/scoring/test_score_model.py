from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.allocation.allocation_config import GlobalThreshold, KlKnapsack, Uniform
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import ScoringConfig
from pruning.plans.sub_block import list_sub_blocks
from pruning.scoring import score_model as module
from pruning.scoring.kl_curves import measure_draw, pool_batches
from pruning.scoring.known_saliencies import find_saliency, score_units
from pruning.scoring.score_model import load_dense, score_model
from pruning.scoring.scoring_run import load_run
from pruning.scoring.scoring_settings import describe_scoring, read_scoring
from tests.pruning.oneshot.tiny_runs import scoring, write_model, write_text
from tests.pruning.tiny_models import make_tiny


class Broken:
    """Forgets a unit."""

    def score(self, task: Any) -> Any:
        return {key: torch.ones(site.num_units - 1) for key, site in task.sites.items()}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("task", ["causal-lm", "classification", "seq2seq"])
def test_a_run_holds_what_the_saliency_says_of_its_calibration(
    task: str, tmp_path: Path, text: Path
) -> None:
    source = write_model(tmp_path / "m", task)
    run = score_model(source, scoring(text), tmp_path / "run")
    dense = load_dense(source, "auto")
    assert list(run.scores) == sorted(list_sub_blocks(read_model(dense.model).dims))
    again = score_units(find_saliency("obs"), dense.task(run.calibration))
    assert all(torch.equal(run.scores[key], again[key]) for key in again)
    assert run.curves is not None and run.curves.keys() == run.scores.keys()
    assert run.held_out is not None and run.held_out.sha256 != run.calibration.sha256
    assert (run.source, run.config) == (source, scoring(text))
    assert not list(run.folder.glob("draw-*"))


def test_the_draw_that_prunes_nearest_to_the_dense_model_is_kept(
    tmp_path: Path, text: Path, model: str
) -> None:
    config = scoring(text, {"num_draws": 3})
    run = score_model(model, config, tmp_path / "run")
    dense = load_dense(model, "auto")
    draws = [
        module.draw_calibration(
            dense.model, dense.tokenizer, module.load_documents(config.calibration),
            config.calibration, number,
        )
        for number in range(3)
    ]  # fmt: skip
    measures = []
    for draw in draws:
        task = dense.task(draw)
        scores = score_units(find_saliency("obs"), task)
        measures.append(measure_draw(task, dense.source, scores, pool_batches(draws), 0.5))
    assert run.figures["draw_divergences"] == pytest.approx(measures)
    assert run.calibration.sha256 == draws[measures.index(min(measures))].sha256
    assert len(set(measures)) == 3


def test_a_run_shows_its_settings_and_not_its_tensors(
    tmp_path: Path, text: Path, model: str
) -> None:
    shown = repr(score_model(model, scoring(text), tmp_path / "run"))
    assert "ScoringConfig(saliency=" in shown
    assert "tensor(" not in shown
    assert "DamageCurve(" not in shown


def test_a_finished_run_is_read_and_not_made_again(
    tmp_path: Path, text: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "run" / ".manifest.json.k3v9x2ab.nirvana-partial"
    left.mkdir(parents=True)  # by a process that was killed before it had a manifest
    first = score_model(model, scoring(text), tmp_path / "run")
    assert not left.exists()
    left.mkdir()  # by one that was killed when all was done
    monkeypatch.setattr(module, "load_dense", None)
    assert score_model(model, scoring(text), tmp_path / "run").figures == first.figures
    assert not left.exists()


def test_an_interrupted_run_goes_on_to_the_same_end(
    tmp_path: Path, text: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_model(model, scoring(text), tmp_path / "whole")
    scored: list[int] = []
    real = module.score_units

    def count(*args: Any) -> Any:
        scored.append(1)
        return real(*args)

    monkeypatch.setattr(module, "score_units", count)
    for end in (("score", 1), ("damage curves", 3)):
        with pytest.raises(KeyboardInterrupt):
            score_model(model, scoring(text), tmp_path / "cut", progress=stop_at(*end))
        with pytest.raises(NirvanaError, match=r"was interrupted\. Run its `nirvana score` again"):
            load_run(tmp_path / "cut")
    said: list[tuple[str, int, int]] = []
    run = score_model(
        model, scoring(text), tmp_path / "cut", progress=lambda *step: said.append(step)
    )
    assert len(scored) == 2
    # What was measured before the interruption is not measured again.
    assert [done for what, done, _ in said if what == "damage curves"] == [3, 4, 5, 6]
    assert run.curves == whole.curves
    assert all(torch.equal(run.scores[key], whole.scores[key]) for key in whole.scores)


def stop_at(what: str, number: int) -> Any:
    def stop(now: str, done: int, of: int) -> None:
        if (now, done) == (what, number):
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saliency": "magnitude"}, r"other settings \(saliency: obs -> magnitude\)"),
        ({"calibration": {"seed": 3}}, r"\(calibration\.seed: 0 -> 3\)"),
        ({"allocation": Uniform()}, r"allocation\.kind: KlKnapsack -> Uniform; .*num_levels"),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    changes: dict[str, Any], message: str, tmp_path: Path, text: Path, model: str
) -> None:
    score_model(model, scoring(text), tmp_path / "run")
    with pytest.raises(NirvanaError, match=message):
        score_model(model, scoring(text, **changes), tmp_path / "run")


def test_a_folder_of_another_model_is_refused(tmp_path: Path, text: Path, model: str) -> None:
    score_model(model, scoring(text), tmp_path / "run")
    other = write_model(tmp_path / "other", rms_norm_eps=1e-5)
    with pytest.raises(NirvanaError, match=r"other settings \(model config: \w+ -> \w+\)"):
        score_model(other, scoring(text), tmp_path / "run")


def test_a_used_folder_is_left_alone(tmp_path: Path, text: Path, model: str) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(NirvanaError, match="holds something other than a scoring run"):
        score_model(model, scoring(text), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_too_little_text_says_how_much_there_is(tmp_path: Path, text: Path, model: str) -> None:
    config = scoring(text, {"num_sequences": 500})
    with pytest.raises(NirvanaError, match=r"needs 500 sequences .* Lower calibration"):
        score_model(model, config, tmp_path / "run")


def test_scores_of_the_wrong_shape_are_refused(tmp_path: Path, text: Path, model: str) -> None:
    config = scoring(text, saliency=f"{__name__}:Broken")
    with pytest.raises(NirvanaError, match=r"Broken, 0\.attention: the scores have the shape"):
        score_model(model, config, tmp_path / "run")


def test_a_model_that_takes_no_text_is_refused(tmp_path: Path, text: Path) -> None:
    make_tiny("vit").save_pretrained(tmp_path / "vit")
    with pytest.raises(NirvanaError, match=r"takes pixel_values\. Cut it by a plan of your own"):
        score_model(str(tmp_path / "vit"), scoring(text), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_validation_split_nothing_is_held_out(tmp_path: Path, model: str) -> None:
    text = write_text(tmp_path / "text", num_validation=1)
    config = scoring(text, allocation=Uniform())
    run = score_model(model, config, tmp_path / "run")
    assert run.held_out is None
    assert "sequence" in run.figures["not_held_out"]
    assert ("held-out text", f"none. {run.figures['not_held_out']}") in run.headline()
    assert run.curves is None
    assert not (run.folder / "curves.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "manifest.json").unlink(), "found no manifest.json there"),
        (lambda run: (run / "manifest.json").write_text("{"), "cannot be read: it is not JSON"),
        (lambda run: (run / "manifest.json").write_text("{}"), "found another manifest"),
        (lambda run: change_format(run), r"found nirvana-scoring-0\. Score the model again"),
        (lambda run: (run / "curves.json").unlink(), r"lacks curves\.json"),
        (lambda run: (run / "curves.json").write_text("{}"), r"curves\.json is damaged"),
        (lambda run: (run / "scores.safetensors").write_bytes(b"x"), "scores.* is damaged"),
    ],
    ids=["no-run", "cut", "another", "version", "missing", "changed", "scores"],
)
def test_a_damaged_run_is_refused(
    damage: Any, message: str, tmp_path: Path, text: Path, model: str
) -> None:
    score_model(model, scoring(text), tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(NirvanaError, match=message):
        load_run(tmp_path / "run")


def change_format(run: Path) -> None:
    path = run / "manifest.json"
    path.write_text(re.sub("nirvana-scoring-1", "nirvana-scoring-0", path.read_text()))


@pytest.mark.parametrize(
    "config",
    [
        ScoringConfig(),
        ScoringConfig(allocation=Uniform(), saliency="flap"),
        ScoringConfig(allocation=GlobalThreshold(gamma=3.0)),
        ScoringConfig(allocation=KlKnapsack(num_measured=2), dtype="bfloat16"),
    ],
)
def test_settings_read_back(config: ScoringConfig) -> None:
    assert read_scoring(json.loads(json.dumps(describe_scoring(config)))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saliency": " "}, "saliency must name one"),
        ({"dtype": "int4"}, "dtype must be one of auto, float32"),
        ({"damping": 0.0}, "damping must be above 0"),
        ({"draw_budget": 1.0}, "draw_budget must be a fraction above 0 and below 1, got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        ScoringConfig(**changes)
