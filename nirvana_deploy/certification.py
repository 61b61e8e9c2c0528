"""Runs candidates and their baseline on the rows of a certificate, and tests the claim."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from datasets import Dataset

from nirvana_deploy.certificate import (
    Certificate,
    Claim,
    SequenceEntry,
    check_files,
    count_needed_rows,
    hash_model,
    mean_p_value,
)
from nirvana_deploy.evaluation import ModelRun, name_answers, run_model, score_answers
from nirvana_deploy.fingerprints import find_versions
from pruning.errors import NirvanaError
from pruning.progress import Progress, show_nothing
from pruning.tasks.data_config import DataConfig
from pruning.tasks.data_splits import load_scored_rows, load_splits

_SLACK = 0.002  # of the rows: on another processor a few near ties are decided otherwise


def certify_models(
    candidates: Sequence[str],
    baseline: str,
    data: DataConfig,
    *,
    claim: Claim,
    limit: float,
    confidence: float,
    fitted_on: Sequence[str] = (),
    texts: Path | None = None,
    longest: int | None = None,
    batch_size: int | None = None,
    progress: Progress = show_nothing,
) -> Certificate:
    """Test the candidates in their order, and return what passed; see `api.certify`."""
    _check_claim(limit, confidence)
    if not candidates:
        raise NirvanaError("Expected one or more models to certify, got none.")
    from pruning.tasks.data_splits import load_scored_rows

    rows = load_scored_rows(data).validation
    needed = count_needed_rows(limit, confidence)
    if len(rows) < needed:
        raise NirvanaError(
            f"{data.dataset} has {len(rows)} rows. To show {limit:.2%} with {confidence:.0%} "
            f"confidence takes {needed} or more, even if none of them differs. Give more rows, or "
            "claim less."
        )
    keys = _key_rows(rows)
    _refuse_seen(keys, data, fitted_on)
    dense = run_model(baseline, data, texts, longest, batch_size, progress)
    sequence: list[SequenceEntry] = []
    metric = "answers"
    for source in candidates:
        run = run_model(source, data, texts, dense.max_length, batch_size, progress)
        losses, metric = _compare(dense, run, claim)
        p_value = mean_p_value(losses, limit)
        tested = SequenceEntry(
            model=source,
            sha256=hash_model(source),
            risk=math.fsum(losses) / len(losses),
            p_value=p_value,
            passed=p_value <= 1 - confidence,
        )
        sequence.append(tested)
        if not tested.passed:
            break
    passed = [number for number, each in enumerate(sequence) if each.passed]
    return Certificate(
        claim=claim,
        limit=limit,
        confidence=confidence,
        metric=metric,
        baseline=baseline,
        baseline_sha256=hash_model(baseline),
        sequence=tuple(sequence),
        chosen=passed[-1] if passed else None,
        task=dense.text.task.name,
        dataset=data.dataset,
        num_rows=len(rows),
        num_repeated=len(keys) - len(set(keys)),
        rows_sha256=hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        fitted_on=tuple(fitted_on),
        max_length=dense.max_length,
        date=datetime.now(UTC).date().isoformat(),
        versions=find_versions(("torch", "transformers", "onnxruntime")),
    )


def certify_again(
    certificate: Certificate,
    baseline: str,
    candidate: str,
    data: DataConfig,
    *,
    texts: Path | None = None,
    batch_size: int | None = None,
    progress: Progress = show_nothing,
) -> Certificate:
    """Test the claim of a certificate again, on other rows or on the same ones.

    Raises:
        NirvanaError: one of the models is not that of the certificate, or the rows are the same
            and other figures came.
    """
    if certificate.model is None:
        raise NirvanaError("The certificate is for no model: none passed. Certify one again.")
    for source, hashes in (
        (baseline, certificate.baseline_sha256),
        (candidate, certificate.model.sha256),
    ):
        check_files(hash_model(source), hashes, source)
    again = certify_models(
        [candidate],
        baseline,
        data,
        claim=certificate.claim,
        limit=certificate.limit,
        confidence=certificate.confidence,
        texts=texts,
        longest=certificate.max_length,
        batch_size=batch_size,
        progress=progress,
    )
    (tested,), risk = again.sequence, certificate.model.risk
    slack = max(1.5, _SLACK * again.num_rows) / again.num_rows
    if again.rows_sha256 == certificate.rows_sha256 and abs(tested.risk - risk) > slack:
        raise NirvanaError(
            f"On the rows of the certificate {candidate} has a risk of {tested.risk:.4%}, and the "
            f"certificate says {risk:.4%}. It is not of this run; certify the model again."
        )
    return again


def _check_claim(limit: float, confidence: float) -> None:
    for name, value in (("The limit", limit), ("confidence", confidence)):
        if not 0 < value < 1:
            raise NirvanaError(f"{name} must be above 0 and below 1 (100%), got {value:g}.")


def _key_rows(rows: Dataset) -> list[str]:
    """Return what identifies each row: all its values, or those of its texts."""
    return [json.dumps(row, sort_keys=True, default=str) for row in rows]


def _texts_of(rows: Iterable[str]) -> dict[str, int]:
    """Return the texts of rows, the longest string of each, with the row's number."""
    found: dict[str, int] = {}
    for number, row in enumerate(rows):
        values = [value for value in json.loads(row).values() if isinstance(value, str | list)]
        words = [each if isinstance(each, str) else " ".join(map(str, each)) for each in values]
        text = max(words, key=len, default="")
        found.setdefault(text, number)
    return found


def _refuse_seen(keys: Sequence[str], data: DataConfig, fitted_on: Sequence[str]) -> None:
    """Refuse rows that something was fitted or chosen on."""

    ours = _texts_of(keys)
    for source in fitted_on:
        config = replace(data, dataset=source, max_validation_rows=None)
        splits: Mapping[str, Dataset] = (
            {"all": load_scored_rows(config).validation}
            if Path(source).is_file()
            else load_splits(config)
        )
        for name, split in splits.items():
            common = ours.keys() & _texts_of(_key_rows(split)).keys()
            if common:
                first = min(ours[text] for text in common)
                raise NirvanaError(
                    f"{len(common)} texts of {data.dataset} are in the split {name!r} of {source}, "
                    f"too; the first is row {first}. A certificate is worth nothing on rows that "
                    "something was fitted on. Give rows that were held out."
                )


def _compare(dense: ModelRun, run: ModelRun, claim: Claim) -> tuple[list[float], str]:
    """Return what each row loses, from 0 to 1, and the metric that it is a loss of."""

    task = run.text.task
    if task.name not in ("classification", "token-classification", "question-answering"):
        raise NirvanaError(
            f"A certificate is for the answers of rows, and {task.name} has none that are right or "
            "wrong. Certify a classifier, a token classifier or a model for questions."
        )
    pairs = list(zip(name_answers(dense), name_answers(run), strict=True))
    if any(len(ours) != len(theirs) for ours, theirs in pairs):
        raise NirvanaError(
            f"{run.model.name} and {dense.model.name} cut the rows into different tokens, so their "
            "answers cannot be compared. Certify models of one tokenizer."
        )
    if claim == "flips":
        return [float(ours != theirs) for ours, theirs in pairs], "answers"
    metric = {"question-answering": "f1", "token-classification": "accuracy of a row's tokens"}
    scores = zip(score_answers(dense), score_answers(run), strict=True)
    return [max(0.0, before - after) for before, after in scores], metric.get(task.name, "accuracy")
