"""The one currency: what is kept of a model. Frozen, torch-free, JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pruning.errors import NirvanaError

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseDims:
    """The dimensions of the model that a plan was made for."""

    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    head_dim: int
    intermediate_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What one block keeps, as indices into the dense block.

    An empty tuple leaves only the output projection's bias; None drops the sub-block, so that
    nothing is added to the residual stream.
    """

    kept_heads: tuple[int, ...] | None
    kept_neurons: tuple[int, ...] | None

    @property
    def num_kept_heads(self) -> int:
        """Kept heads; 0 when the attention is dropped."""
        return len(self.kept_heads or ())

    @property
    def num_kept_neurons(self) -> int:
        """Kept neurons; 0 when the MLP is dropped."""
        return len(self.kept_neurons or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPlan:
    """What is kept of a dense model, layer by layer.

    Attributes:
        config_hash: of the dense model's config (see `hash_config`), to tell where a plan came
            from. Whether it fits is decided by `dims`: a new label does not void a plan.
        made_by: how the plan came about (method, budget, seed), for people and reports.
    """

    dims: DenseDims
    layers: tuple[LayerPlan, ...]
    config_hash: str
    made_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.layers) != self.dims.num_layers:
            raise NirvanaError(
                f"The plan has {len(self.layers)} layers, its model {self.dims.num_layers}."
            )
        for number, layer in enumerate(self.layers):
            _check_kept(layer.kept_heads, self.dims.num_heads, number, "head")
            _check_kept(layer.kept_neurons, self.dims.intermediate_size, number, "neuron")

    @classmethod
    def dense(cls, dims: DenseDims, config_hash: str) -> PruningPlan:
        """Return the plan that keeps everything."""
        whole = LayerPlan(
            kept_heads=tuple(range(dims.num_heads)),
            kept_neurons=tuple(range(dims.intermediate_size)),
        )
        return cls(dims=dims, layers=(whole,) * dims.num_layers, config_hash=config_hash)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {"version": PLAN_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PruningPlan:
        """Read a plan from JSON values.

        Raises:
            NirvanaError: a key is missing or unknown, the version is not ours, or the indices do
                not fit the dimensions.
        """
        if data.get("version") != PLAN_VERSION:
            raise NirvanaError(
                f"Expected a pruning plan of version {PLAN_VERSION}, got {data.get('version')!r}."
            )
        _require_keys(data, {"version"} | {f.name for f in fields(cls)}, "The plan")
        dims = data["dims"]
        _require_keys(dims, {f.name for f in fields(DenseDims)}, "The plan's dims")
        return cls(
            dims=DenseDims(**dims),
            layers=tuple(_read_layer(layer, i) for i, layer in enumerate(data["layers"])),
            config_hash=data["config_hash"],
            made_by=data["made_by"],
        )

    def save(self, path: Path) -> None:
        """Write the plan as a JSON file."""
        path.write_text(json.dumps(self.to_json()) + "\n")

    @classmethod
    def load(cls, path: Path) -> PruningPlan:
        """Read a plan from a JSON file."""
        if not path.is_file():
            raise NirvanaError(f"Expected a pruning plan at {path}, found no file there.")
        try:
            data = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise NirvanaError(f"{path} is not JSON: {error}.") from error
        return cls.from_json(data)

    def check_fits(self, dims: DenseDims) -> None:
        """Raise NirvanaError naming the first dimension in which `dims` is another model."""
        for name in (f.name for f in fields(DenseDims)):
            expected, came = getattr(self.dims, name), getattr(dims, name)
            if expected != came:
                raise NirvanaError(
                    f"The plan was made for {name} {expected}, the model has {came}. "
                    "Apply it to the dense model that it was made for."
                )


def hash_config(config: dict[str, Any]) -> str:
    """Return a sha256 of a model config, without what differs between equal models."""
    volatile = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
    kept = {key: value for key, value in config.items() if key not in volatile}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _check_kept(kept: Sequence[int] | None, num_dense: int, layer: int, unit: str) -> None:
    if kept is None:
        return
    if list(kept) != sorted(set(kept)):
        raise NirvanaError(f"Layer {layer}: kept {unit}s must be ascending and without duplicates.")
    for index in kept:
        if not 0 <= index < num_dense:
            raise NirvanaError(
                f"Layer {layer}: {unit} {index} is out of range; the model has {num_dense}."
            )


def _require_keys(data: dict[str, Any], expected: set[str], what: str) -> None:
    missing, unknown = expected - set(data), set(data) - expected
    if missing or unknown:
        raise NirvanaError(
            f"{what} lacks {sorted(missing) or 'nothing'} and has unknown {sorted(unknown)}."
        )


def _read_layer(data: dict[str, Any], number: int) -> LayerPlan:
    _require_keys(data, {f.name for f in fields(LayerPlan)}, f"Layer {number} of the plan")
    heads, neurons = data["kept_heads"], data["kept_neurons"]
    return LayerPlan(
        kept_heads=None if heads is None else tuple(heads),
        kept_neurons=None if neurons is None else tuple(neurons),
    )
