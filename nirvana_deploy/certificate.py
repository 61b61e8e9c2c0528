"""Certificates: with what confidence a smaller model answers as the dense one, on rows never seen.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan and Lei 2021, arXiv 2110.01052) by a fixed
sequence: candidates are tested in an order that was set before the rows were looked at, each by
a p-value of "its risk is above the limit", until the first whose p-value is above 1 - confidence.
Then, with that confidence, none of those that passed has a higher risk than the limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pruning.checkpoints.file_hash import hash_unchanged
from pruning.errors import NirvanaError
from pruning.strict_json import read_json
from pruning.write_aside import write_json

CERTIFICATE_FILE = "certificate.json"
Claim = Literal["flips", "loss"]
# What a model is made of, in its folder: graphs, weights, engines, configs, tokenizers.
_GRAPHS = (".onnx", ".data")
_TEXTS = (".json", ".txt", ".model")
_PARTS = (*_GRAPHS, *_TEXTS, ".safetensors", ".bin", ".engine", ".plan")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceEntry:
    """One candidate of the sequence.

    Attributes:
        sha256: by file of its folder.
        risk: mean over the rows: the fraction that flipped, or the mean loss.
        p_value: of the hypothesis that its true risk is above the limit.
    """

    model: str
    sha256: dict[str, str]
    risk: float
    p_value: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What was claimed, on what it was tested, and what passed.

    Attributes:
        claim: `flips`: the fraction of rows that are answered otherwise than by the baseline is at
            most `limit`. `loss`: the mean of what a row loses in `metric` is, which is never less
            than what the metric of all rows loses.
        rows_sha256: of the texts and labels.
        num_repeated: rows that are there more than once.
        fitted_on: data that none of the rows is from; empty: this was not checked.
        chosen: the last of `sequence` that passed; None where not even the first did.
    """

    claim: Claim
    limit: float
    confidence: float
    metric: str
    baseline: str
    baseline_sha256: dict[str, str]
    sequence: tuple[SequenceEntry, ...]
    chosen: int | None
    task: str
    dataset: str
    num_rows: int
    num_repeated: int
    rows_sha256: str
    fitted_on: tuple[str, ...]
    max_length: int
    date: str
    versions: dict[str, str | None]

    @property
    def model(self) -> SequenceEntry | None:
        """The candidate that the certificate is for."""
        return None if self.chosen is None else self.sequence[self.chosen]

    def describe(self) -> str:
        """Say the claim in a sentence."""
        if self.claim == "flips":
            what = f"answers at most {self.limit:.2%} of such rows otherwise than {self.baseline}"
        else:
            what = f"loses at most {100 * self.limit:g} points of {self.metric} on such rows"
        return f"{what}, with {self.confidence:.0%} confidence"

    def estimate_rows(self, risk: float) -> int:
        """Return about how many rows show the claim where the risk on them is `risk`."""
        for exponent in range(4, 80):
            num_rows = round(2 ** (exponent / 2))
            if flips_p_value(round(risk * num_rows), num_rows, self.limit) <= 1 - self.confidence:
                return num_rows
        return 2**40

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """Read what `certify` wrote.

        Raises:
            NirvanaError: it cannot be read, or is no certificate.
        """
        found = read_json(path, cls, remedy="Certify the model again.")
        if found.chosen is not None and not 0 <= found.chosen < len(found.sequence):
            raise NirvanaError(
                f"{path} has chosen {found.chosen} of {len(found.sequence)} models. Certify the "
                "model again."
            )
        return found


def count_needed_rows(limit: float, confidence: float) -> int:
    """Return how many rows a claim needs if none of them differs."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-limit))


def flips_p_value(num_flips: int, num_rows: int, limit: float) -> float:
    """Return the p-value of "more than `limit` of all rows flip": P(Bin(n, limit) <= flips)."""
    from pruning.tasks.evaluated_rows import binomial_cdf

    return binomial_cdf(num_flips, num_rows, limit)


def mean_p_value(losses: Sequence[float], limit: float) -> float:
    """Return the p-value of "the mean loss is above `limit`", for losses from 0 to 1.

    The Hoeffding-Bentkus bound (Bates, Angelopoulos, Lei, Malik and Jordan 2021, arXiv 2101.02703);
    of losses that are 0 or 1 the exact one.
    """
    num_rows, total = len(losses), math.fsum(losses)
    if all(loss in (0, 1) for loss in losses):
        return flips_p_value(round(total), num_rows, limit)
    mean = min(total / num_rows, limit)
    hoeffding = math.exp(-num_rows * _divergence(mean, limit))
    return min(1.0, hoeffding, math.e * flips_p_value(math.ceil(total - 1e-9), num_rows, limit))


def _divergence(a: float, b: float) -> float:
    """Return the KL divergence of two coins, in nats."""
    first = a * math.log(a / b) if a else 0.0
    return first + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0)


def save_certificate(certificate: Certificate, path: Path) -> None:
    """Write `certificate.json`."""
    write_json(path, certificate.to_json())


def check_certificate(folder: Path) -> None:
    """Refuse a folder whose certificate is not for the files in it; without one, nothing is said.

    Raises:
        NirvanaError: a file was changed, is missing, or the certificate is for no model.
    """
    path = folder / CERTIFICATE_FILE
    if not path.is_file():
        return
    model = Certificate.load(path).model
    if model is None:
        raise NirvanaError(f"{path} is for no model: none passed. Remove it, or certify again.")
    check_files({name: _hash(folder / name) for name in model.sha256}, model.sha256, str(folder))


def carry_certificate(onnx_path: Path, package: Path) -> None:
    """Copy the certificate beside a graph into the package that was made of it."""
    path = onnx_path.parent / CERTIFICATE_FILE
    if path.is_file():
        check_certificate(onnx_path.parent)
        save_certificate(Certificate.load(path), package / CERTIFICATE_FILE)
        check_packaged(package)


def check_packaged(package: Path) -> None:
    """Refuse a package that lacks a graph of its certificate, byte for byte.

    Raises:
        NirvanaError: a graph, or the data beside it, is not what was certified.
    """
    path = package / CERTIFICATE_FILE
    if not path.is_file():
        return
    model = Certificate.load(path).model
    certified = {} if model is None else model.sha256
    graphs = {name: digest for name, digest in certified.items() if name.endswith(_GRAPHS)}
    packaged = {_hash(file) for file in package.rglob("*") if file.name.endswith(_GRAPHS)}
    if wrong := [name for name, digest in graphs.items() if digest not in packaged]:
        raise NirvanaError(
            f"{path} is a certificate for another {wrong[0]} than the package has. Package the "
            "model again from the folder that was certified, or without its certificate."
        )
    if not graphs:
        raise NirvanaError(f"{path} is for no graph. Remove it, and package the model again.")


def hash_model(source: str) -> dict[str, str]:
    """Return the sha256 of each file that a model is made of, by name."""
    from exporters.compare.open_artefact import find_kind
    from pruning.checkpoints.model_source import fetch_model

    path = fetch_model(source) if find_kind(source) == "checkpoint" else Path(source)
    if path.is_dir():
        files = [each for each in path.iterdir() if each.suffix in _PARTS]
    else:
        from exporters.engines.engine_graph import list_external_data
        from exporters.graphs.read_structure import read_structure

        beside = list_external_data(read_structure(path)) if path.suffix == ".onnx" else ()
        texts = [each for each in path.parent.iterdir() if each.suffix in _TEXTS]
        files = [path, *(path.parent / name for name in beside), *texts]
    folder = path if path.is_dir() else path.parent
    return {
        file.relative_to(folder).as_posix(): hash_unchanged(file)
        for file in sorted(files)
        if file.is_file() and file.name != CERTIFICATE_FILE
    }


def _hash(path: Path) -> str | None:
    return hash_unchanged(path) if path.is_file() else None


def check_files(found: Mapping[str, str | None], expected: Mapping[str, str], what: str) -> None:
    """Refuse a file whose hash is not the expected one; `what` has the files."""
    for name, digest in expected.items():
        if found.get(name) != digest:
            state = "was changed" if found.get(name) else "is missing"
            raise NirvanaError(
                f"{name} of {what} {state} since the certificate was made, which therefore says "
                f"nothing of it. Certify the model again, or remove {CERTIFICATE_FILE}."
            )
