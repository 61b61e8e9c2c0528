"""A fingerprint of the weights that a plan was made on, whatever their layout. Torch-free.

It survives a cast to float16 or bfloat16, transposed weights, other names, and queries, keys and
values that were fused into one matrix:

    q [units, hidden] --.
    k [units, hidden] ---+--> sum over all units, for a few hidden channels: 8 numbers
    v [units, hidden] --'

so that the same numbers come out of a checkpoint and of an ONNX graph. Any training changes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims, require_keys

Part = Literal["attention", "cross_attention", "mlp"]
Side = Literal["inputs", "output"]
Precision = Literal["fp32", "fp16", "bf16"]
Matrix = npt.NDArray[np.float32]  # [units, channels]

NUM_CHANNELS = 8
# A dense layer of 200M parameters is read in a second; of a 7B model three layers are looked at.
_MAX_PARAMETERS = 128_000_000
_MIN_LAYERS = 3
# Largest relative error of one number that is rounded to the format.
_ROUNDOFF = {"fp32": 2.5e-7, "fp16": 2.0**-12, "bf16": 2.0**-9}
_TINY = {"fp32": 0.0, "fp16": 1e-6, "bf16": 0.0}  # float16 loses numbers below 6e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSums:
    """What is known of the projections into a sub-block, or of the one out of it.

    Attributes:
        precision: the coarsest format that holds the weights without loss.
        sums: of the weights of all units, for each of `NUM_CHANNELS` hidden channels.
        norms: the square roots of the sums of the same weights' squares.
    """

    precision: Precision
    sums: tuple[float, ...]
    norms: tuple[float, ...]

    def differs(self, other: ChannelSums) -> bool:
        """Return whether no rounding to the coarser of both formats explains the difference."""
        coarse = max(self.precision, other.precision, key=lambda name: _ROUNDOFF[name])
        pairs = [*zip(self.sums, other.sums, self.norms, other.norms, strict=True)]
        for mine, its, norm, its_norm in pairs:
            # Rounding errors add up like a random walk, or like the sum where weights are equal.
            allowed = _ROUNDOFF[coarse] * (4 * norm + 2 * abs(mine)) + _TINY[coarse]
            if not (abs(mine - its) <= allowed and abs(norm - its_norm) <= allowed):
                return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFingerprint:
    """The channel sums of a dense model's layers, by `layer/part/side`."""

    sums: dict[str, ChannelSums]

    @classmethod
    def from_json(cls, data: Any) -> WeightFingerprint:
        """Read a fingerprint from a plan's JSON values."""
        require_keys(data, {"sums"}, "A fingerprint of the plan's weights")
        found = data["sums"]
        if not isinstance(found, dict) or not all(map(_is_entry, found.items())):
            raise NirvanaError(
                "A fingerprint of the plan's weights should have, by layer, a precision (fp32, "
                f"fp16 or bf16) and {NUM_CHANNELS} sums and norms. Write the plan again, or take "
                "`weights` out of it: it is then not checked which weights it was made on."
            )
        return cls(
            sums={
                name: ChannelSums(
                    precision=entry["precision"],
                    sums=tuple(entry["sums"]),
                    norms=tuple(entry["norms"]),
                )
                for name, entry in found.items()
            }
        )

    def find_difference(self, other: WeightFingerprint) -> str | None:
        """Return the first entry that differs, `` where none does, None where none is in both."""
        common = [name for name in self.sums if name in other.sums]
        wrong = (name for name in common if self.sums[name].differs(other.sums[name]))
        return next(wrong, "") if common else None


_NAME = re.compile(r"\d{1,6}/(attention|cross_attention|mlp)/(inputs|output)")


def _is_entry(item: tuple[Any, Any]) -> bool:
    name, entry = item
    return (
        _NAME.fullmatch(name) is not None
        and isinstance(entry, dict)
        and entry.keys() == {"precision", "sums", "norms"}
        and entry["precision"] in list(_ROUNDOFF)
        and all(_is_numbers(entry[name]) for name in ("sums", "norms"))
    )


def _is_numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == NUM_CHANNELS
        and all(type(number) in (int, float) for number in values)
    )


class WeightGroup(NamedTuple):
    """Weights that are summed together; `number` is the layer's in the stack of index `stack`."""

    layer: int
    number: int
    stack: int
    part: Part
    side: Side


def list_groups(dims: DenseDims) -> Iterator[WeightGroup]:
    """Yield all weights that are looked at.

    Of large models a few layers, evenly spread: the first, the last, and some between.
    """
    start = 0
    for index, stack in enumerate(dims.stacks):
        parts: tuple[Part, ...] = ("attention", "mlp")
        if stack.cross_attention:
            parts = ("attention", "cross_attention", "mlp")
        for number in _spread_layers(stack):
            for part in parts:
                yield WeightGroup(start + number, number, index, part, "inputs")
                yield WeightGroup(start + number, number, index, part, "output")
        start += stack.num_layers


def _spread_layers(stack: StackDims) -> list[int]:
    width = stack.num_heads * stack.head_dim * (4 + 4 * stack.cross_attention)
    a_layer = stack.hidden_size * (width + 3 * stack.intermediate_size)
    count = min(stack.num_layers, max(_MIN_LAYERS, _MAX_PARAMETERS // a_layer))
    last = stack.num_layers - 1
    return sorted({round(i * last / max(count - 1, 1)) for i in range(count)})


def pick_channels(size: int) -> list[int]:
    """Return the hidden channels that are looked at, of `size`: evenly spread."""
    return [(2 * i + 1) * size // (2 * NUM_CHANNELS) for i in range(NUM_CHANNELS)]


def take_fingerprint(
    dims: DenseDims, read: Callable[[WeightGroup], Sequence[Matrix] | None]
) -> tuple[WeightFingerprint, ...]:
    """Return the fingerprint of a dense model; none where none of its weights can be read.

    `read` gives the weights of each projection of a group as float32 [units, NUM_CHANNELS], or
    None where one of them is not there.
    """
    sums = {}
    for group in list_groups(dims):
        matrices = read(group)
        if matrices:
            sums[f"{group.layer}/{group.part}/{group.side}"] = sum_channels(matrices, group.side)
    return (WeightFingerprint(sums=sums),) if sums else ()


def sum_channels(matrices: Sequence[Matrix], side: Side) -> ChannelSums:
    """Return the channel sums of matrices [units, NUM_CHANNELS].

    The units of an output projection have one order everywhere, and are weighted by it, so that
    units which change places are seen. Those of fused inputs have not.
    """
    precision = _find_precision(matrices)
    # Weights that are NaN or infinite give no sums; those are told apart from all others.
    whole = [
        np.nan_to_num(m.astype(np.float64), nan=1e30, posinf=1e30, neginf=-1e30) for m in matrices
    ]
    sums = np.zeros(NUM_CHANNELS)
    for matrix in whole:
        weighted = matrix
        if side == "output":
            weighted = matrix * np.cos(np.arange(len(matrix)))[:, None]
        sums += weighted.sum(axis=0)
    norms = np.sqrt(sum((matrix**2).sum(axis=0) for matrix in whole))
    return ChannelSums(precision=precision, sums=_shorten(sums), norms=_shorten(np.asarray(norms)))


def _find_precision(matrices: Sequence[Matrix]) -> Precision:
    if all(not np.any(m.view(np.uint32) & 0xFFFF) for m in map(np.ascontiguousarray, matrices)):
        return "bf16"
    with np.errstate(over="ignore", invalid="ignore"):
        same = all(np.array_equal(m, m.astype(np.float16), equal_nan=True) for m in matrices)
    return "fp16" if same else "fp32"


def _shorten(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.9g}") for value in values)


SAME_WEIGHTS = "those that the plan was made on"


def check_weights(
    expected: Sequence[WeightFingerprint],
    found: Sequence[WeightFingerprint],
    *,
    force: bool = False,
    unread: str = "the weights that a plan cuts were not found",
) -> str:
    """Compare the weights that a plan was made on with those of a model; return what came out.

    Each has several where weights were trained while the plan was made, or none where they are not
    known; `unread` says why the model's are not.

    Raises:
        NirvanaError: they differ, and `force` is not set.
    """
    if not expected:
        return "not checked: the plan does not say on which weights it was made"
    if not found:
        return f"not checked: {unread}"
    pairs = [(mine, its) for mine in expected for its in found]
    differences = [mine.find_difference(its) for mine, its in pairs]
    if "" in differences:
        mine, its = pairs[differences.index("")]
        return SAME_WEIGHTS + _tell_missing([name for name in mine.sums if name not in its.sums])
    known = [name for name in differences if name is not None]
    if not known:
        return f"not checked: {unread}"
    layer, part, _ = known[0].split("/")
    if not force:
        raise NirvanaError(
            f"The plan was made on other weights: those of {_tell_group(known[0])} differ by more "
            "than a cast to another type explains. The sizes fit, but what can go was decided on a "
            "model with other values, or before it was trained further. Give that model, make a "
            "plan of this one, or apply it all the same with --force (force=True)."
        )
    return f"WARNING: not those that the plan was made on (layer {layer}, {part}); forced"


def _tell_group(name: str) -> str:
    layer, part, side = name.split("/")
    return f"the {side} of layer {layer}'s {part.replace('_', '-')}"


def _tell_missing(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"; not compared, for they were not found: {_tell_group(names[0])}{more}"
