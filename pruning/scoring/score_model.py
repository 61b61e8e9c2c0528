"""Scores a model once, for any number of budgets: calibrate, score, measure damage curves."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pruning.allocation.allocation_config import KlKnapsack
from pruning.calibration.calibration import (
    Calibration,
    draw_calibration,
    load_documents,
    refuse_textless,
    select_draw,
)
from pruning.calibration.calibration_config import name_source
from pruning.checkpoints.model_skeleton import build_skeleton, find_architecture
from pruning.checkpoints.model_source import load_model, load_stock_model, resolve_model
from pruning.checkpoints.prunable_model import PrunableModel
from pruning.checkpoints.remote_code import is_remote_code_allowed
from pruning.cutting.repack import read_dense
from pruning.errors import NirvanaError
from pruning.machine_limits import MachineLimitError
from pruning.oneshot.oneshot_config import ScoringConfig
from pruning.progress import Progress, name_progress, show_nothing
from pruning.scoring.kl_curves import measure_curves, measure_draw, pool_batches
from pruning.scoring.known_saliencies import find_saliency, score_units
from pruning.scoring.saliency import Scores, ScoringTask
from pruning.scoring.scoring_run import (
    CALIBRATION_FILE,
    CURVES_FILE,
    HELD_OUT_FILE,
    MANIFEST_FILE,
    SCORES_FILE,
    ScoringRun,
    load_curves,
    load_run,
    load_unfinished_scores,
    read_manifest,
    save_curves,
    save_scores,
    write_manifest,
)
from pruning.scoring.scoring_settings import describe_scoring, refuse_difference
from pruning.wirings.sites import Site, find_sites
from pruning.write_aside import is_unused, make_folder, remove_leftovers

_HELD_OUT_SPLIT = "validation"
_HELD_OUT_SEQUENCES = 32  # at most
_VERSIONS = ("nirvana-deploy", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseModel:
    """A loaded dense model, on the device that it is scored on.

    Attributes:
        weights_hash: of a part of every sub-block's output projection: tells apart models of the
            same config, also one from its fine-tuned self.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: PrunableModel
    weights_hash: str

    def task(self, draw: Calibration) -> ScoringTask:
        """Return the task of scoring this model on a draw."""
        return ScoringTask(self.model, find_sites(self.model, self.source), draw.batches)


def score_model(
    source: str, config: ScoringConfig, out_dir: Path | str, *, progress: Progress | None = None
) -> ScoringRun:
    """Score the units of a dense model into the folder `out_dir`.

    Called again with the same arguments, it goes on where it was interrupted; a run that is
    finished is read. The weights are mapped from their files and not changed.

    Raises:
        NirvanaError: the model cannot be pruned, was pruned before or takes no text; there is too
            little text; the saliency is unknown or its scores are malformed; `out_dir` holds
            something else, or a run of another model or with other settings.
    """
    folder, progress = Path(out_dir), progress or show_nothing
    config = dataclasses.replace(config, calibration=name_source(config.calibration))
    saliency = find_saliency(config.saliency)
    started = time.monotonic()
    manifest = _start(folder, source, config)
    if manifest["finished"]:
        return load_run(folder)
    documents = load_documents(config.calibration)
    dense = load_dense(source, config.dtype)
    refuse_difference(
        {"weights": manifest["weights_hash"] or dense.weights_hash},
        {"weights": dense.weights_hash},
        f"The unfinished scoring run {folder}",
    )
    manifest["weights_hash"] = dense.weights_hash
    # Of all attempts: one of them may have run a folder's own code.
    allowed = bool(manifest.get("trust_remote_code")) or is_remote_code_allowed()
    manifest["trust_remote_code"] = allowed
    write_manifest(folder, manifest)
    draws = [
        draw_calibration(dense.model, dense.tokenizer, documents, config.calibration, number)
        for number in range(config.calibration.num_draws)
    ]
    scores = [
        _score_draw(folder, number, draw, dense, saliency, progress, len(draws))
        for number, draw in enumerate(draws)
    ]
    best, divergences = _choose(dense, draws, scores, config)
    draws[best].save(folder / CALIBRATION_FILE)
    save_scores(folder / SCORES_FILE, scores[best])
    not_held_out = _hold_out(folder, dense, config)
    if isinstance(config.allocation, KlKnapsack):
        _measure(folder, dense.task(draws[best]), scores[best], config, progress)
    for path in folder.glob("draw-*"):
        path.unlink()
    figures = {
        "draw": best,
        "draw_divergences": divergences,
        "num_sequences": draws[best].num_sequences,
        "num_tokens": draws[best].num_tokens,
        "labels": draws[best].labels,
        "text_column": documents.text_column,
        "not_held_out": not_held_out,
        "seconds": time.monotonic() - started,
    }
    write_manifest(folder, {**manifest, "finished": True, "figures": figures})
    return load_run(folder)


def load_dense(source: str, dtype: str) -> DenseModel:
    """Load a dense model and its tokenizer to score or prune it.

    Raises:
        NirvanaError: it cannot be loaded, pruned, was pruned before, or takes no text.
    """
    path = resolve_model(source)
    skeleton = build_skeleton(path)
    refuse_textless(skeleton)
    read_dense(skeleton)  # before gigabytes are read
    tokenizer = load_stock_model(AutoTokenizer, path)
    model = load_model(find_architecture(skeleton.config), path, dtype=dtype)
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    read = read_dense(model)
    hashed = hash_weights(find_sites(model, read))
    return DenseModel(model=model, tokenizer=tokenizer, source=read, weights_hash=hashed)


def hash_weights(sites: Mapping[Any, Site]) -> str:
    """Return a sha256 of the first row of every sub-block's output projection, in float32."""
    digest = hashlib.sha256()
    for site in sites.values():
        row = site.output_weight()[0].detach().float().cpu().contiguous()
        digest.update(row.numpy().tobytes())
    return digest.hexdigest()


def _start(folder: Path, source: str, config: ScoringConfig) -> dict[str, object]:
    """Return the manifest of a new run, or of the one in `folder` if it is of the same making."""
    skeleton = build_skeleton(resolve_model(source))
    refuse_textless(skeleton)
    read = read_dense(skeleton)
    asked = describe_scoring(config)
    remove_leftovers(folder)
    found = read_manifest(folder) if folder.is_dir() else None
    if found is not None:
        what = f"The scoring run {folder}"
        refuse_difference(
            {"model config": found["config_hash"]}, {"model config": read.current.config_hash}, what
        )
        refuse_difference(found["settings"], asked, what)
        return found
    if not is_unused(folder):
        raise NirvanaError(
            f"{folder} holds something other than a scoring run ({MANIFEST_FILE} is not there). "
            "Choose a new or empty folder; nothing was changed."
        )
    make_folder(folder, "score")
    manifest = {
        "finished": False,
        "model": str(Path(source).resolve()) if Path(source).is_dir() else source,
        "config_hash": read.current.config_hash,
        "weights_hash": "",
        "dims": asdict(read.dims),
        "settings": asked,
        "versions": {name: version(name) for name in _VERSIONS},
        "figures": {},
    }
    write_manifest(folder, manifest)
    return manifest


def _score_draw(
    folder: Path,
    number: int,
    draw: Calibration,
    dense: DenseModel,
    saliency: Any,
    progress: Progress,
    num_draws: int,
) -> Scores:
    """Score on one draw, unless an interrupted run has done so."""
    path = folder / f"draw-{number}.safetensors"
    found = load_unfinished_scores(path)
    if found is None or found[1].get("calibration") != draw.sha256:
        save_scores(path, score_units(saliency, dense.task(draw)), calibration=draw.sha256)
        found = load_unfinished_scores(path)
        assert found is not None
    progress("score", number + 1, num_draws)
    return found[0]


def _choose(
    dense: DenseModel,
    draws: Sequence[Calibration],
    scores: Sequence[Scores],
    config: ScoringConfig,
) -> tuple[int, list[float] | None]:
    """Return the number of the best draw, and by what they were told apart."""
    if len(draws) == 1:
        return 0, None
    pool = pool_batches(draws)
    measures = [
        measure_draw(dense.task(draw), dense.source, found, pool, config.draw_budget)
        for draw, found in zip(draws, scores, strict=True)
    ]
    return select_draw(measures), measures


def _hold_out(folder: Path, dense: DenseModel, config: ScoringConfig) -> str | None:
    """Draw text that nothing is fitted on, from the validation split of the calibration source.

    Where there is none, or too little, the figures have no held-out part; say why, then.
    """
    calibration = config.calibration
    if calibration.split == _HELD_OUT_SPLIT:
        return f"Calibration itself draws from the split {_HELD_OUT_SPLIT}."
    held_out = dataclasses.replace(
        calibration,
        split=_HELD_OUT_SPLIT,
        num_sequences=min(calibration.num_sequences, _HELD_OUT_SEQUENCES),
    )
    try:
        documents = load_documents(held_out)
        drawn = draw_calibration(dense.model, dense.tokenizer, documents, held_out, 0)
    except MachineLimitError:
        raise
    except NirvanaError as error:
        return str(error)
    drawn.save(folder / HELD_OUT_FILE)
    return None


def _measure(
    folder: Path, task: ScoringTask, scores: Scores, config: ScoringConfig, progress: Progress
) -> None:
    """Measure the damage curves, but for those that an interrupted run has measured."""
    assert isinstance(config.allocation, KlKnapsack)
    path = folder / CURVES_FILE
    known = load_curves(path) if path.is_file() else {}
    if known:
        progress("damage curves", len(known), len(task.sites))
    curves = measure_curves(
        task,
        scores,
        num_levels=config.allocation.num_levels,
        damping=config.damping,
        num_measured=config.allocation.num_measured,
        progress=name_progress(progress, "damage curves"),
        known=known,
        keep=partial(save_curves, path),
    )
    save_curves(path, dict(sorted(curves.items())))
