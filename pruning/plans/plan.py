"""The one currency: what is kept of a model. Frozen, torch-free, JSON."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path

from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims, require_keys, require_list
from pruning.plans.weight_fingerprint import WeightFingerprint
from pruning.strict_json import JsonObject, read_value
from pruning.write_aside import write_json

PLAN_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What one block keeps, as indices into the dense block.

    An empty tuple leaves only the output projection's bias; None drops the sub-block, so that
    nothing is added to the residual stream.

    Attributes:
        kept_heads: query heads. A KV group stays while one of its query heads does, and all that
            stay must keep equally many.
        kept_cross_heads: of the cross-attention; None too where the block has none.
        dropped: the whole block, its norms included, is taken out of the model.
    """

    kept_heads: tuple[int, ...] | None
    kept_neurons: tuple[int, ...] | None
    kept_cross_heads: tuple[int, ...] | None = None
    dropped: bool = False

    @classmethod
    def drop_block(cls) -> LayerPlan:
        """Return the plan of a block that is taken out."""
        return cls(kept_heads=None, kept_neurons=None, dropped=True)

    @classmethod
    def dense(cls, dims: StackDims) -> LayerPlan:
        """Return the plan of a block that keeps everything."""
        heads = tuple(range(dims.num_heads))
        return cls(
            kept_heads=heads,
            kept_neurons=tuple(range(dims.intermediate_size)),
            kept_cross_heads=heads if dims.cross_attention else None,
        )

    @property
    def num_kept_heads(self) -> int:
        """Kept query heads of the self-attention; 0 when it is dropped."""
        return len(self.kept_heads or ())

    @property
    def num_kept_neurons(self) -> int:
        """Kept neurons; 0 when the MLP is dropped."""
        return len(self.kept_neurons or ())


def kept_groups(heads: Sequence[int], dims: StackDims) -> tuple[int, ...]:
    """Return the KV groups that the query heads `heads` belong to, ascending."""
    return tuple(sorted({head // dims.heads_per_group for head in heads}))


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPlan:
    """What is kept of a dense model, layer by layer: the encoder's layers, then the decoder's.

    Attributes:
        config_hash: of the dense model's config (see `hash_config`), to tell where a plan came
            from. Whether it fits is decided by `dims`: a new label does not void a plan.
        made_by: how the plan came about (method, budget, seed), for people and reports.
        weights: fingerprints of the dense weights that it was made on: one, or two where they were
            trained meanwhile (before and after). Empty where they are not known, as in plans of
            earlier versions; no part of what makes two plans equal.
    """

    dims: DenseDims
    layers: tuple[LayerPlan, ...]
    config_hash: str
    made_by: dict[str, object] = field(default_factory=dict)
    weights: tuple[WeightFingerprint, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(self.layers) != self.dims.num_layers:
            raise NirvanaError(
                f"The plan has {len(self.layers)} layers, its model {self.dims.num_layers}."
            )
        for number, (layer, dims) in enumerate(zip(self.layers, self.dims.layers, strict=True)):
            _check_layer(layer, dims, number)
        for stack, layers in self.stacks():
            if all(layer.dropped for layer in layers):
                raise NirvanaError(f"The plan drops every block of the {stack.name}; keep one.")

    @classmethod
    def dense(cls, dims: DenseDims, config_hash: str) -> PruningPlan:
        """Return the plan that keeps everything."""
        layers = tuple(LayerPlan.dense(stack) for stack in dims.layers)
        return cls(dims=dims, layers=layers, config_hash=config_hash)

    def stacks(self) -> tuple[tuple[StackDims, tuple[LayerPlan, ...]], ...]:
        """Return the layers of each stack with its dimensions."""
        found, start = [], 0
        for stack in self.dims.stacks:
            found.append((stack, self.layers[start : start + stack.num_layers]))
            start += stack.num_layers
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        """Return the plan as plain JSON values."""
        plain: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return {"version": PLAN_VERSION, **plain}

    @classmethod
    def from_json(cls, data: JsonObject) -> PruningPlan:
        """Read a plan from JSON values.

        Raises:
            NirvanaError: a key is missing or unknown, the version is not ours, or the indices do
                not fit the dimensions.
        """
        if not isinstance(data, dict) or data.get("version") != PLAN_VERSION:
            version = data.get("version") if isinstance(data, dict) else type(data).__name__
            raise NirvanaError(
                f"Expected a pruning plan of version {PLAN_VERSION}, got {version!r}. "
                "`nirvana inspect MODEL --write-plan FILE` writes one to start from."
            )
        data = {"weights": [], **data}  # plans of earlier versions do not have it
        require_keys(data, {"version"} | {f.name for f in fields(cls)}, "The plan")
        require_list(data["layers"], "layers of the plan")
        require_list(data["weights"], "weights of the plan")
        for name, kind in (("config_hash", str), ("made_by", dict)):
            if not isinstance(data[name], kind):
                came = type(data[name]).__name__
                raise NirvanaError(f"The plan's {name} should be a {kind.__name__}, got {came}.")
        return cls(
            dims=DenseDims.from_json(data["dims"]),
            layers=tuple(_read_layer(layer, i) for i, layer in enumerate(data["layers"])),
            config_hash=data["config_hash"],
            made_by=data["made_by"],
            weights=tuple(map(WeightFingerprint.from_json, data["weights"])),
        )

    def save(self, path: Path | str) -> None:
        """Write the plan as a JSON file."""
        write_json(Path(path), self.to_json(), indent=None)

    @classmethod
    def load(cls, path: Path | str) -> PruningPlan:
        """Read a plan from a JSON file."""
        path = Path(path)
        if not path.is_file():
            raise NirvanaError(f"Expected a pruning plan at {path}, found no file there.")
        return cls.from_json(read_value(path, remedy="Write the plan again."))


def hash_config(config: dict[str, object]) -> str:
    """Return a sha256 of a model config, without what differs between equal models."""
    volatile = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
    kept = {key: value for key, value in config.items() if key not in volatile}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _check_layer(layer: LayerPlan, dims: StackDims, number: int) -> None:
    _check_kept(layer.kept_heads, dims.num_heads, number, "head")
    _check_kept(layer.kept_neurons, dims.intermediate_size, number, "neuron")
    _check_kept(layer.kept_cross_heads, dims.num_heads, number, "cross-attention head")
    kept = (layer.kept_heads, layer.kept_neurons, layer.kept_cross_heads)
    if layer.dropped and any(units is not None for units in kept):
        raise NirvanaError(f"Layer {number}: a dropped block keeps nothing; set its units to null.")
    if layer.kept_cross_heads is not None and not dims.cross_attention:
        raise NirvanaError(f"Layer {number} has no cross-attention; set kept_cross_heads to null.")
    for heads in (layer.kept_heads, layer.kept_cross_heads):
        _check_groups(heads or (), dims, number)


def _check_kept(kept: Sequence[int] | None, num_dense: int, layer: int, unit: str) -> None:
    if kept is None:
        return
    wrong = [index for index in kept if type(index) is not int]
    if wrong:
        raise NirvanaError(f"Layer {layer}: kept {unit}s are whole numbers, got {wrong[0]!r}.")
    if any(index >= after for index, after in pairwise(kept)):
        ascending = sorted(kept)
        twice = next((index for index, after in pairwise(ascending) if index == after), None)
        detail = "" if twice is None else f"; {unit} {twice} is there twice"
        raise NirvanaError(
            f"Layer {layer}: kept {unit}s must be ascending and without duplicates{detail}."
        )
    for index in kept:
        if not 0 <= index < num_dense:
            raise NirvanaError(
                f"Layer {layer}: {unit} {index} is out of range; the model has {num_dense}."
            )


def _check_groups(heads: Sequence[int], dims: StackDims, layer: int) -> None:
    counts = Counter(head // dims.heads_per_group for head in heads)
    if len(set(counts.values())) > 1:
        raise NirvanaError(
            f"Layer {layer}: every kept KV group must keep equally many query heads, got "
            f"{', '.join(f'{n} in group {group}' for group, n in counts.items())}."
        )


def _read_layer(data: JsonObject, number: int) -> LayerPlan:
    require_keys(data, {f.name for f in fields(LayerPlan)}, f"Layer {number} of the plan")
    kept = ("kept_heads", "kept_neurons", "kept_cross_heads")
    for name in kept:
        if not (data[name] is None or isinstance(data[name], list)):
            raise NirvanaError(
                f"Layer {number} of the plan: {name} is a list or null, got {data[name]!r}."
            )
    if type(data["dropped"]) is not bool:
        raise NirvanaError(f"Layer {number} of the plan: dropped is true or false.")
    units = {name: None if data[name] is None else tuple(data[name]) for name in kept}
    return LayerPlan(**units, dropped=data["dropped"])
