"""The dimensions of a dense model, and what its units weigh. Torch-free; a plan carries them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

# No model has more; beyond, lists of all units do not fit into memory.
_MOST_UNITS = 2**24
_MOST_PARAMETERS = 2**48


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSizes:
    """Count the parameters that go with each unit of a block.

    Weights belong to matrix products, biases do not. `query_head` are a query head's rows and its
    columns of the output projection; `kv_head` its key's and value's rows; `neuron` all rows and
    columns of one neuron. `attention_bias` and `mlp_bias` are what an empty sub-block still has,
    `attention_rest` goes with the last head (norms of q and k), `norms` with the whole block.
    Of the `norms`, the first block of a stack lacks `first_block_lacks` (ModernBERT's has no norm
    before its attention).
    """

    query_head_weights: int
    query_head_biases: int
    kv_head_weights: int
    kv_head_biases: int
    neuron_weights: int
    neuron_biases: int
    attention_bias: int
    attention_rest: int
    mlp_bias: int
    norms: int
    first_block_lacks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackDims:
    """The dimensions of an encoder or a decoder, whose blocks are equal while it is dense."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    cross_attention: bool
    sizes: UnitSizes

    @classmethod
    def from_json(cls, data: object) -> StackDims:
        """Read the dimensions of one stack from JSON values."""
        return _read_stack(data, 0)

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key and value: 1 for plain multi-head attention."""
        return self.num_heads // self.num_kv_heads

    @property
    def first_block(self) -> StackDims:
        """The dimensions of the first block, whose norms may weigh less."""
        lacks = self.sizes.first_block_lacks
        sizes = replace(self.sizes, norms=self.sizes.norms - lacks, first_block_lacks=0)
        return replace(self, sizes=sizes) if lacks else self


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseDims:
    """The dimensions of the model that a plan was made for."""

    model_type: str
    stacks: tuple[StackDims, ...]

    @property
    def layers(self) -> tuple[StackDims, ...]:
        """The dimensions of each layer: the encoder's layers, then the decoder's."""
        return tuple(
            stack if number else stack.first_block
            for stack in self.stacks
            for number in range(stack.num_layers)
        )

    @property
    def num_layers(self) -> int:
        """Layers of all stacks."""
        return sum(stack.num_layers for stack in self.stacks)

    @classmethod
    def from_json(cls, data: JsonObject) -> DenseDims:
        """Read the dimensions from JSON values."""
        require_keys(data, {f.name for f in fields(cls)}, "The plan's dims")
        require_list(data["stacks"], "stacks of the plan's dims")
        _require_text(data["model_type"], "model_type of the plan's dims")
        return cls(
            model_type=data["model_type"],
            stacks=tuple(_read_stack(stack, i) for i, stack in enumerate(data["stacks"])),
        )

    def check_same(self, model: DenseDims) -> None:
        """Raise NirvanaError naming the first dimension in which `model` differs from these."""
        _compare("model_type", self.model_type, model.model_type)
        names = [[stack.name for stack in dims.stacks] for dims in (self, model)]
        _compare("stacks", names[0], names[1])
        for mine, other in zip(self.stacks, model.stacks, strict=True):
            for name in (f.name for f in fields(StackDims) if f.name != "sizes"):
                _compare(name, getattr(mine, name), getattr(other, name), f" of the {mine.name}")
            for name in (f.name for f in fields(UnitSizes)):
                expected, came = getattr(mine.sizes, name), getattr(other.sizes, name)
                _compare(f"sizes.{name}", expected, came, f" of the {mine.name}")


def require_keys(data: object, expected: set[str], what: str) -> None:
    """Raise NirvanaError unless `data` is a mapping with exactly the keys `expected`."""
    if not isinstance(data, dict):
        raise NirvanaError(f"{what} should be a JSON object, got {type(data).__name__}.")
    missing, unknown = expected - set(data), set(data) - expected
    if missing or unknown:
        found = [f"lacks {sorted(missing)}"] if missing else []
        found += [f"has unknown {sorted(unknown)}"] if unknown else []
        raise NirvanaError(f"{what} {' and '.join(found)}.")


def require_list(data: object, what: str) -> None:
    """Raise NirvanaError unless `data` is a list."""
    if not isinstance(data, list):
        raise NirvanaError(f"The {what} should be a JSON list, got {type(data).__name__}.")


def _compare(name: str, expected: object, came: object, where: str = "") -> None:
    if expected != came:
        raise NirvanaError(
            f"The plan was made for {name} {expected}{where}, the model has {came}. "
            "Apply it to the dense model that it was made for."
        )


def _require_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise NirvanaError(f"The {what} should be text, got {type(value).__name__}.")


def _is_count(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _read_stack(data: Any, number: int) -> StackDims:
    require_keys(data, {f.name for f in fields(StackDims)}, f"Stack {number} of the plan's dims")
    if isinstance(data["sizes"], dict):  # plans from before this size was told apart lack it
        data = {**data, "sizes": {"first_block_lacks": 0, **data["sizes"]}}
    require_keys(data["sizes"], {f.name for f in fields(UnitSizes)}, "The sizes in the plan's dims")
    counts = [f.name for f in fields(StackDims) if f.type == "int"]
    wrong = [name for name in counts if not _is_count(data[name], 1, _MOST_UNITS)]
    sizes = data["sizes"].items()
    wrong += [f"sizes.{name}" for name, n in sizes if not _is_count(n, 0, _MOST_PARAMETERS)]
    if wrong or data["num_heads"] % data["num_kv_heads"]:
        raise NirvanaError(
            f"Stack {number} of the plan's dims: {', '.join(wrong) or 'num_kv_heads'} should be "
            f"whole numbers from 1 to {_MOST_UNITS} (sizes: from 0), and num_kv_heads should "
            "divide num_heads."
        )
    _require_text(data["name"], f"name of stack {number} of the plan's dims")
    if type(data["cross_attention"]) is not bool:
        raise NirvanaError(f"Stack {number} of the plan's dims: cross_attention is true or false.")
    return StackDims(**{**data, "sizes": UnitSizes(**data["sizes"])})
