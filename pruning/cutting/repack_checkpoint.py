"""Cuts a plan into a checkpoint from disk to disk, one tensor in memory at a time."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from transformers import PreTrainedModel

from pruning.checkpoints import modeling_pruned
from pruning.checkpoints.checkpoint_files import (
    CODE_FILE,
    MANIFEST_FILE,
    check_files,
    describe_remote_code,
    is_pruned,
)
from pruning.checkpoints.checkpoint_source import (
    INDEX_FILE,
    SINGLE_FILE,
    StoredTensor,
    check_against_model,
    list_ignored,
    list_tensors,
    name_as_in_model,
    name_as_saved,
    refuse_packed,
)
from pruning.checkpoints.model_fingerprint import fingerprint_stored
from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.checkpoints.model_source import fetch_model, has_nan, quiet_transformers
from pruning.checkpoints.prunable_model import PLAN_FILE, PrunableModel
from pruning.checkpoints.pruned_config import make_config, make_plain_config
from pruning.cutting.tensor_cutter import Fate, TensorCutter
from pruning.cutting.tensor_writer import TensorHeader, write_tensors
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.plans.plan_composition import check_within
from pruning.plans.weight_fingerprint import SAME_WEIGHTS, WeightFingerprint, check_weights
from pruning.progress import CountProgress
from pruning.strict_json import read_json
from pruning.write_aside import write_new_folder

# What goes along from the source: tokenizer, generation config, processor, licence, model card.
_COMPANIONS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".md")
_OWN_FILES = ("config.json", INDEX_FILE, PLAN_FILE, MANIFEST_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepackResult:
    """What was written.

    Attributes:
        is_plain: the checkpoint is of the stock class, and needs no remote code.
        inferred_from: the known types whose names fitted, when the wiring was inferred.
        extra_tensors: tensors outside the blocks that the config does not ask for; they went along.
        nan_tensors: tensors that hold NaN or infinity.
        weights: whether the plan was made on these weights, or why that was not checked.
    """

    checkpoint: Path
    architecture: str
    is_plain: bool
    inferred_from: str
    source_bytes: int
    size_bytes: int
    extra_tensors: tuple[str, ...]
    nan_tensors: tuple[str, ...]
    weights: str

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {**asdict(self), "checkpoint": str(self.checkpoint)}

    def headline(self) -> list[tuple[str, str]]:
        """Return what happened as (what, value) for a person to read."""
        code = "no code of its own" if self.is_plain else "trust_remote_code=True, or load()"
        rows = [
            ("checkpoint", str(self.checkpoint)),
            ("size", f"{self.source_bytes / 1e6:,.1f} MB -> {self.size_bytes / 1e6:,.1f} MB"),
            ("loads as", f"{self.architecture}, {code}"),
        ]
        rows.append(("weights", self.weights))
        if self.inferred_from:
            rows.append(("wiring", f"inferred from {self.inferred_from}, and proven"))
        if self.extra_tensors:
            rows.append(("not asked for by the config, taken along", ", ".join(self.extra_tensors)))
        if self.nan_tensors:
            rows.append(("WARNING: NaN or infinity in", ", ".join(self.nan_tensors)))
        return rows


def repack_checkpoint(
    source: Path | str,
    plan: PruningPlan,
    out_dir: Path | str,
    *,
    replace: bool = False,
    force: bool = False,
    progress: CountProgress | None = None,
) -> RepackResult:
    """Write the checkpoint `source`, dense or pruned before, as `plan` leaves it, to `out_dir`.

    The shards of the source keep their number, the weights their type. `out_dir` appears when it
    is whole; with `replace`, a checkpoint that is there is then replaced. With `force`, a plan
    that was made on other weights of the same sizes is taken.

    Raises:
        NirvanaError: the plan does not fit, or was made on other weights; weights are missing,
            corrupt, quantized, in another format, or not those of the config; the folder cannot be
            written.
    """
    folder = fetch_model(str(source))
    job = _prepare(folder, plan, force)
    with write_new_folder(Path(out_dir), "prune", replace=replace) as aside:
        hashes, nan_tensors = _write_shards(job, aside, progress)
        _write_companions(folder, job, aside)
        dataclasses.replace(plan, weights=job.dense_weights).save(aside / PLAN_FILE)
        modeling_pruned.write_manifest(
            aside, also={path.name for path in aside.iterdir()}, known=hashes
        )
    return RepackResult(
        checkpoint=Path(out_dir),
        architecture=job.config.architectures[0],
        is_plain=job.is_plain,
        inferred_from=job.source.wiring.inferred_from,
        source_bytes=job.size_bytes,
        size_bytes=sum(spec.size_bytes for shard in job.shards.values() for spec, _, _ in shard),
        extra_tensors=tuple(job.extra),
        nan_tensors=tuple(nan_tensors),
        weights=job.weights,
    )


Piece = tuple[TensorHeader, StoredTensor, Fate]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Everything that is decided before the first byte is written; shards by their new names."""

    source: PrunableModel
    config: Any
    is_plain: bool
    shards: Mapping[str, list[Piece]]
    extra: list[str]
    size_bytes: int
    weights: str
    dense_weights: tuple[WeightFingerprint, ...]


def _prepare(folder: Path, plan: PruningPlan, force: bool) -> _Job:
    if is_pruned(folder):
        check_files(folder)
    model = build_skeleton(str(folder))
    source = read_model(model)
    plan.dims.check_same(source.dims)
    check_within(plan, source.current)
    stored = list_tensors(folder)
    names = name_as_in_model(model, [tensor.name for tensor in stored])
    ignored = list_ignored(model, names.values())
    stored = [tensor for tensor in stored if names[tensor.name] not in ignored]
    refuse_packed(model, {names[tensor.name]: tensor.dtype for tensor in stored})
    shapes = {names[tensor.name]: tensor.shape for tensor in stored}
    blocks = [f"{source.prefix}{stack.blocks}." for stack in source.wiring.stacks]
    extra = check_against_model(model, shapes, blocks)
    unread = "the pruned checkpoint does not say which dense weights it was made of"
    found = fingerprint_stored(source, {names[tensor.name]: tensor for tensor in stored})
    weights = check_weights(plan.weights, found, force=force, unread=unread)
    config = make_plain_config(source, plan, shapes)
    is_plain = config is not None
    cutter = TensorCutter(
        source.prefix, source.wiring, plan, source.current, (source.is_plain, is_plain)
    )
    config = config or make_config(source, plan)
    smaller_class = (
        source.stock_class if is_plain else modeling_pruned.pruned_class(source.stock_class)
    )
    config.architectures = [smaller_class.__qualname__]
    with torch.device("meta"), quiet_transformers():
        smaller = smaller_class(copy.deepcopy(config))
    return _Job(
        source=source,
        config=config,
        is_plain=is_plain,
        shards=_share_out(smaller, stored, names, cutter),
        extra=extra,
        size_bytes=sum(_count_bytes(tensor) for tensor in stored),
        weights=weights,
        # Of the model itself where the plan's are others, or not known.
        dense_weights=plan.weights if weights.startswith(SAME_WEIGHTS) else found or plan.weights,
    )


def _count_bytes(tensor: StoredTensor) -> int:
    return TensorHeader(tensor.name, tensor.dtype, tensor.shape).size_bytes


def _share_out(
    smaller: PreTrainedModel,
    stored: list[StoredTensor],
    names: Mapping[str, str],
    cutter: TensorCutter,
) -> dict[str, list[Piece]]:
    """Return the pieces of each new shard: one for each shard of the source that has any left."""
    fates = {tensor.name: cutter.follow(names[tensor.name]) for tensor in stored}
    new_names = name_as_saved(smaller, [fate.name for fate in fates.values() if fate is not None])
    by_file: dict[Path, list[Piece]] = {}
    for tensor in stored:
        fate = fates[tensor.name]
        if fate is not None:
            spec = TensorHeader(new_names[fate.name], tensor.dtype, fate.resize(tensor.shape))
            by_file.setdefault(tensor.file, []).append((spec, tensor, fate))
    count = len(by_file)
    numbered = (f"model-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count))
    shard_names = [SINGLE_FILE] if count == 1 else list(numbered)
    return dict(zip(shard_names, by_file.values(), strict=True))


def _write_shards(
    job: _Job, aside: Path, progress: CountProgress | None
) -> tuple[dict[str, str], list[str]]:
    done, nan_tensors, hashes = 0, [], {}
    pieces_of_all = [piece for pieces in job.shards.values() for piece in pieces]
    total = sum(_count_bytes(tensor) for _, tensor, _ in pieces_of_all)
    if progress is not None:
        progress(0, total)

    def read(pieces: list[Piece]) -> Iterator[torch.Tensor]:
        nonlocal done
        for _, tensor, fate in pieces:
            whole = tensor.read()
            if has_nan(whole):
                nan_tensors.append(tensor.name)
            yield fate.apply(whole)
            done += whole.nbytes
            if progress is not None:
                progress(done, total)

    for name, pieces in job.shards.items():
        hashes[name] = write_tensors(aside / name, [spec for spec, _, _ in pieces], read(pieces))
    if len(job.shards) > 1:
        specs = [spec for spec, _, _ in pieces_of_all]
        weight_map = {s.name: shard for shard, ps in job.shards.items() for s, _, _ in ps}
        index = {
            "metadata": {"total_size": sum(spec.size_bytes for spec in specs)},
            "weight_map": weight_map,
        }
        (aside / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    return hashes, nan_tensors


class _Part(TypedDict):
    path: str


def _list_parts(folder: Path) -> list[str]:
    """Return the sub-folders that sentence-transformers puts behind the model: pooling and such."""
    try:
        modules = read_json(folder / "modules.json", list[_Part], remedy="")
        parts = [module["path"] for module in modules]
    except NirvanaError:
        return []
    return [part for part in parts if part and ".." not in part and (folder / part).is_dir()]


def _write_companions(folder: Path, job: _Job, aside: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _COMPANIONS and path.name not in _OWN_FILES:
            shutil.copyfile(path, aside / path.name)
    for part in _list_parts(folder):
        shutil.copytree(folder / part, aside / part)
    if not job.is_plain:
        job.config.auto_map, code = describe_remote_code(job.config.model_type)
        (aside / CODE_FILE).write_text(code)
    job.config.save_pretrained(aside)
