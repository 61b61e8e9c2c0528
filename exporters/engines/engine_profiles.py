"""Plans the optimization profiles of an engine: the shapes that it takes, and is tuned for.

By default they are those of the task: an encoder has one, a decoder with a cache one for the prompt
(an empty cache) and one for the steps after it (one token each), a decoder beside an encoder one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.engines.engine_config import EngineConfig, GivenProfile, ShapeRange
from exporters.graphs.export_manifest import find_manifest
from exporters.graphs.read_structure import read_structure
from exporters.io_names import is_past
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

# One optimization profile: by input name, then `min`, `opt` and `max`, a shape.
Profile = dict[str, dict[str, list[int]]]
CORNERS = ("min", "opt", "max")
Dims = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class _Range:
    """Sizes of one dimension; unlike ShapeRange, a cache may be empty."""

    min: int
    opt: int
    max: int

    def __add__(self, other: _Range) -> _Range:
        return _Range(self.min + other.min, self.opt + other.opt, self.max + other.max)

    def __str__(self) -> str:
        return f"{self.min}, {self.opt}, {self.max}"


def plan_profiles(
    model: onnx.ModelProto, config: EngineConfig, *, max_length: int | None = None
) -> dict[str, Profile]:
    """Return the shapes of every input for each profile, by the profile's name.

    `max_length` is the most tokens, those in a cache included, that the model has positions for.

    Raises:
        NirvanaError: the graph cannot take a profile; it names input and dimension.
    """
    inputs = _read_inputs(model)
    max_length = _least(max_length, _find_buffer_length(inputs))
    if config.profiles:
        named = enumerate(config.profiles)
        profiles = {str(number): _complete(inputs, given, number) for number, given in named}
    else:
        profiles = {
            name: _fill(inputs, ranges)
            for name, ranges in _plan_task(inputs, config, max_length).items()
        }
    for name, profile in profiles.items():
        _check_profile(inputs, profile, name, max_length)
    return profiles


def read_max_length(onnx_path: Path) -> int | None:
    """Return how many positions `export.json` says that a graph has; None where nothing says it.

    Raises:
        NirvanaError: `export.json` is there and cannot be read.
    """
    manifest = find_manifest(onnx_path)
    graph = None if manifest is None else manifest.find(onnx_path.name)
    return None if graph is None else graph.max_length


def find_max_length(onnx_path: Path) -> int | None:
    """Return how many positions a graph has; None where nothing says it.

    By `export.json`, else by a config.json beside the graph, and never more than the rows of the
    graph's own table of positions, of which some types leave the first ones out.
    """
    found = read_max_length(onnx_path)
    if found is not None:
        return found
    # Not above: it takes seconds to import, and most graphs have their export.json.
    from pruning.checkpoints.config_file import CONFIG_FILE, read_config_file
    from pruning.tasks.position_limit import count_config_positions, is_position_table

    folder = onnx_path.parent
    limits: list[int | None] = []
    if (folder / CONFIG_FILE).is_file():
        limits.append(count_config_positions(read_config_file(folder)))
    if onnx_path.is_file():
        tables = read_structure(onnx_path).graph.initializer
        limits += [int(t.dims[0]) for t in tables if len(t.dims) == 2 and is_position_table(t.name)]
    return min((limit for limit in limits if limit is not None), default=None)


def _read_inputs(model: onnx.ModelProto) -> dict[str, Dims]:
    """Return the dimensions of each input: a number, or the name of one that is free."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param
            for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
        if value.name not in weights
    }


def _plan_task(
    inputs: Mapping[str, Dims], config: EngineConfig, max_length: int | None
) -> dict[str, dict[str, _Range]]:
    """Return the ranges of the free dimensions for each profile that the inputs call for."""
    length, past = _cut_defaults(config, max_length)
    free = {dim for dims in inputs.values() for dim in dims if isinstance(dim, str)}
    batch, one, none = _copy(config.batch), _Range(1, 1, 1), _Range(0, 0, 0)
    has_cache = any(is_past(name) for name in inputs)
    prompt = length
    if "encoder_sequence" in free:  # a decoder beside it starts with one token, as a rule
        prompt = _Range(1, 1, length.max)
    steps = {"decode": (one, past)}
    if not has_cache:
        steps = {"default": (prompt, none)}
    elif "sequence" in free and "encoder_sequence" not in free and prompt.max > 1:
        steps = {"prefill": (prompt, none), **steps}
    return {
        name: {
            "batch": batch,
            "sequence": new,
            "past_sequence": before,
            "total_sequence": before + new,
            "encoder_sequence": length,
        }
        for name, (new, before) in steps.items()
    }


def _cut_defaults(config: EngineConfig, max_length: int | None) -> tuple[_Range, _Range]:
    """Return length and past, no longer than the model allows where the config leaves them open."""
    if max_length is None:
        return _copy(config.length), _copy(config.past)
    default = EngineConfig()
    length = _cut(config.length, default.length, max_length)
    past = _cut(config.past, default.past, max(max_length - 1, 1))  # a step adds one
    return length, past


def _fill(inputs: Mapping[str, Dims], ranges: Mapping[str, _Range]) -> Profile:
    profile: Profile = {}
    for name, dims in inputs.items():
        sizes = [_range_of(dim, name, ranges) for dim in dims]
        profile[name] = {corner: [getattr(size, corner) for size in sizes] for corner in CORNERS}
    return profile


def _range_of(dim: int | str, input_name: str, ranges: Mapping[str, _Range]) -> _Range:
    if isinstance(dim, int):
        return _Range(dim, dim, dim)
    if dim not in ranges:
        raise NirvanaError(
            f"input {input_name} has a dynamic dimension {repr(dim) if dim else 'without a name'}; "
            f"those known are {', '.join(ranges)}. Export the graph with these names, or give its "
            "shapes in profiles."
        )
    return ranges[dim]


def _complete(inputs: Mapping[str, Dims], given: GivenProfile, number: int) -> Profile:
    """Return a profile that was given, with the inputs that have one shape only."""
    unknown = [name for name in given if name not in inputs]
    if unknown:
        raise NirvanaError(
            f"profiles: profile {number} has shapes for {', '.join(unknown)}; the graph takes "
            f"{', '.join(inputs)}."
        )
    profile: Profile = {}
    for name, dims in inputs.items():
        fixed = [dim for dim in dims if isinstance(dim, int)]
        if name not in given and len(fixed) < len(dims):
            raise NirvanaError(
                f"profiles: profile {number} lacks the input {name} {_show(dims)}: give its "
                "[min, opt, max]."
            )
        shapes = given.get(name, (fixed,) * len(CORNERS))
        profile[name] = {corner: list(s) for corner, s in zip(CORNERS, shapes, strict=True)}
    return profile


def _check_profile(
    inputs: Mapping[str, Dims], profile: Profile, name: str, max_length: int | None
) -> None:
    """Raise NirvanaError where the graph cannot take what a profile asks for."""
    sizes: dict[str, tuple[str, _Range]] = {}
    for input_name, dims in inputs.items():
        shapes = [profile[input_name][corner] for corner in CORNERS]
        where = f"profile {name}: input {input_name} {_show(dims)}"
        if any(len(shape) != len(dims) for shape in shapes):
            raise NirvanaError(
                f"{where} has {len(dims)} dimensions, the profile gives "
                f"{' and '.join(str(shape) for shape in shapes)}."
            )
        for axis, dim in enumerate(dims):
            found = _Range(*(shape[axis] for shape in shapes))
            _check_dim(f"{where}, dimension {axis}", dim, found, sizes.get(str(dim)))
            if isinstance(dim, str) and dim:
                sizes.setdefault(dim, (input_name, found))
    _check_lengths(name, sizes, max_length)


def _check_dim(
    where: str, dim: int | str, found: _Range, before: tuple[str, _Range] | None
) -> None:
    may_be_empty = dim == "past_sequence"
    least = 0 if may_be_empty else 1
    if not least <= found.min <= found.opt <= found.max:
        raise NirvanaError(f"{where}: expected {least} <= min <= opt <= max, got {found}.")
    if isinstance(dim, int) and (found.min, found.max) != (dim, dim):
        raise NirvanaError(
            f"{where} is fixed at {dim} in the graph, the profile asks for {found}. Export the "
            "graph with this dimension free, or leave it as it is."
        )
    if isinstance(dim, str) and before is not None and before[1] != found:
        raise NirvanaError(
            f"{where} ({dim}) is {found}, and in input {before[0]} the same dimension is "
            f"{before[1]}. Give both the same sizes."
        )


def _check_lengths(
    name: str, sizes: Mapping[str, tuple[str, _Range]], max_length: int | None
) -> None:
    """Hold the lengths against each other, and against the positions of the model."""
    lengths = ("sequence", "past_sequence", "total_sequence")
    if all(dim in sizes for dim in lengths):
        new, past, total = (sizes[dim][1] for dim in lengths)
        if past + new != total:
            raise NirvanaError(
                f"profile {name}: input {sizes['total_sequence'][0]}, dimension total_sequence "
                f"must be past_sequence + sequence, {past + new}; got {total}."
            )
    if max_length is None:
        return
    for dim in ("total_sequence", "sequence", "encoder_sequence"):
        if dim in sizes and sizes[dim][1].max > max_length:
            input_name, found = sizes[dim]
            raise NirvanaError(
                f"profile {name}: input {input_name}, dimension {dim} goes up to {found.max} "
                f"tokens, and the model ends at {max_length}. Lower length.max or past.max, or the "
                "profile where it was given."
            )


def _find_buffer_length(inputs: Mapping[str, Dims]) -> int | None:
    """Return how many tokens a cache of one fixed length holds, None where there is none."""
    if any("past_sequence" in dims for dims in inputs.values()):
        return None  # what is fixed then is a cache of what an encoder has read
    caches = [d for n, d in inputs.items() if is_past(n) and len(d) == 4]
    return min((dims[2] for dims in caches if isinstance(dims[2], int)), default=None)


def _least(*lengths: int | None) -> int | None:
    return min((length for length in lengths if length is not None), default=None)


def _copy(given: ShapeRange) -> _Range:
    return _Range(given.min, given.opt, given.max)


def _cut(given: ShapeRange, default: ShapeRange, limit: int) -> _Range:
    """Cut the sizes that are the default's to a limit, but to no less than one that was set."""
    sizes = [(getattr(given, corner), getattr(default, corner)) for corner in CORNERS]
    cut = (min(size, limit) if size == open_size else size for size, open_size in sizes)
    return _Range(*accumulate(cut, max))


def _show(dims: Dims) -> str:
    return f"[{', '.join(str(dim) for dim in dims)}]"
