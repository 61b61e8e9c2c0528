"""The stages of a run that prunes without training: score, then prune; each into its folder."""

from __future__ import annotations

import time
from pathlib import Path

from pruning.oneshot.oneshot_config import OneShotConfig, Pricing
from pruning.oneshot.prune_with_scores import (
    check_model,
    check_run,
    load_task_text,
    prune_once,
)
from pruning.progress import Progress
from pruning.scoring.score_model import load_dense, score_model
from pruning.scoring.scoring_run import load_run
from pruning.tasks.data_config import DataConfig
from pruning.tasks.evaluation import evaluate_text

RUN_FOLDER = "scores"
UNFINISHED_FOLDER = "scoring"  # an interrupted stage goes on from it


def run_score(
    model: Path, config: OneShotConfig, out_dir: Path, progress: Progress | None = None
) -> dict[str, object]:
    """Score the dense model in `model` into `out_dir/scores`.

    Called again with the same `out_dir`, it goes on from what it finds there.

    Raises:
        NirvanaError: see `score_model`.
    """
    run = score_model(str(model), config.scoring, out_dir / UNFINISHED_FOLDER, progress=progress)
    (out_dir / UNFINISHED_FOLDER).rename(out_dir / RUN_FOLDER)
    return {"saliency": config.scoring.saliency, **run.figures}


def run_oneshot(
    model: Path,
    scores: Path,
    data: DataConfig,
    config: OneShotConfig,
    out_dir: Path,
    pricing: Pricing | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Prune the dense model in `model` by the scoring run in `scores`, into `out_dir/checkpoint`.

    Both models are scored on the validation rows of `data`. With `pricing` the budget is a fraction
    of what that counts, in place of `config.cost`.

    Raises:
        NirvanaError: the budget is out of reach, the run is not of this model, or the rows do not
            fit its task.
    """
    started = time.monotonic()
    run = load_run(scores)
    check_run(run, (config.budget,), config, pricing)
    check_model(run, str(model))
    dense = load_dense(str(model), run.config.dtype)
    text = load_task_text(dense, data)
    figures = prune_once(
        dense,
        run,
        config,
        config.budget,
        out_dir,
        text=text,
        before=evaluate_text(dense.model, text, dense.tokenizer),
        progress=progress,
        pricing=pricing,
    )
    return {**figures, "train_seconds": time.monotonic() - started}
