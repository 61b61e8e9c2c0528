"""The prunable structure of a dense model, read from its modules and checked against its wiring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims, UnitSizes
from pruning.wirings.wiring import AttentionWiring, MlpWiring, Projection, StackWiring, Unit, Wiring


def find_stacks(model: PreTrainedModel, wiring: Wiring) -> list[tuple[StackWiring, nn.ModuleList]]:
    """Return the stacks of `wiring` that the model has, each with its list of blocks."""
    found = []
    for stack in wiring.stacks:
        blocks = find_module(model.base_model, stack.blocks)
        if isinstance(blocks, nn.ModuleList):
            found.append((stack, blocks))
    if not found:
        places = " or ".join(repr(stack.blocks) for stack in wiring.stacks)
        raise NirvanaError(
            f"The wiring of {wiring.model_type!r} expects blocks at {places}, "
            f"{type(model.base_model).__name__} has none there."
        )
    return found


def read_dims(model: PreTrainedModel, wiring: Wiring) -> DenseDims:
    """Read and check the dimensions of a dense model; its weights may be on the meta device.

    Raises:
        NirvanaError: a path does not exist, sizes do not divide, blocks differ, or a block holds a
            linear map that the record does not claim.
    """
    stacks = find_stacks(model, wiring)
    return DenseDims(
        model_type=wiring.model_type,
        stacks=tuple(_read_stack(stack, blocks) for stack, blocks in stacks),
    )


def find_module(root: nn.Module, path: str) -> nn.Module | None:
    """Return the module at `path`, or None."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def present_inputs(
    block: nn.Module, sub_block: AttentionWiring | MlpWiring
) -> tuple[Projection, ...]:
    """Return the input projections that the block has: all but optional ones."""
    return tuple(p for p in sub_block.inputs if find_module(block, p.path) is not None)


def _read_stack(stack: StackWiring, blocks: nn.ModuleList) -> StackDims:
    read = []
    for number, block in enumerate(blocks):
        place = f"Layer {number} of the {stack.name}"
        _check_claims(block, stack, place)
        _check_paths(block, stack, place)
        read.append(_read_block(block, stack, place))
    first = read[0]
    different = next((number for number, dims in enumerate(read) if dims != first), None)
    if different is not None:
        raise NirvanaError(
            f"Layer {different} of the {stack.name} differs from layer 0: "
            f"{read[different]} against {first}. Expected equal blocks: start from the dense model."
        )
    hidden, heads, kv_heads, head_dim, neurons = first
    return StackDims(
        name=stack.name,
        num_layers=len(blocks),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=neurons,
        cross_attention=stack.cross_attention is not None,
        sizes=_measure_units(blocks, stack, first),
    )


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear map, of either layout."""
    return isinstance(module, (nn.Linear, Conv1D))


def has_experts(root: nn.Module) -> bool:
    """Return whether a model has experts; a type that may have them may be dense all the same."""
    return any(
        "expert" in f"{path.rpartition('.')[2]} {type(module).__name__}".lower()
        for path, module in root.named_modules()
    )


def _check_claims(block: nn.Module, stack: StackWiring, place: str) -> None:
    """Refuse a block with a linear map that no part of the record claims, or two parts do."""
    claims = [path for part in stack.parts for path in _list_linears(part)]
    twice = sorted({path for path in claims if claims.count(path) > 1})
    found = {name for name, module in block.named_modules() if is_linear(module)}
    unclaimed = sorted(found - set(claims) - set(stack.left_alone))
    if twice or unclaimed:
        what = f"claims {twice} twice" if twice else f"does not claim {unclaimed}"
        raise NirvanaError(
            f"{place}: the wiring {what}. Cross-attention outside encoder-decoders, adapters "
            "and other additions are not supported: merge or remove them first."
        )


def _list_linears(part: AttentionWiring | MlpWiring) -> list[str]:
    return [*(projection.path for projection in part.inputs), part.output]


def _check_paths(block: nn.Module, stack: StackWiring, place: str) -> None:
    """Refuse a block that lacks what the record says it has."""
    missing = list(_list_missing(block, stack))
    if missing:
        raise NirvanaError(
            f"{place}: {type(block).__name__} has no {', '.join(f'`{m}`' for m in missing)}, which "
            "the wiring names."
        )
    for part in stack.parts:
        for path in _list_linears(part):
            module = find_module(block, path)
            if module is not None and isinstance(module, Conv1D) is not stack.transposed:
                expected = "Conv1D" if stack.transposed else "Linear"
                came = type(module).__name__
                raise NirvanaError(f"{place}: {path} should be a {expected}, it is a {came}.")


def _list_missing(block: nn.Module, stack: StackWiring) -> Iterator[str]:
    for part in stack.parts:
        for projection in part.inputs:
            if not projection.optional and find_module(block, projection.path) is None:
                yield projection.path
        if find_module(block, part.output) is None:
            yield part.output
        if part.residual_norm and find_module(block, part.residual_norm) is None:
            yield part.residual_norm
        if not present_inputs(block, part):
            yield " or ".join(projection.path for projection in part.inputs)
    for attention in stack.attentions:
        core = find_module(block, attention.core)
        for name in (attention.head_dim, *(name for name, _ in attention.counts)):
            if not hasattr(core, name):
                yield f"{attention.core}.{name}"


BlockShape = tuple[int, int, int, int, int]  # hidden, heads, KV heads, head_dim, neurons


def _read_block(block: nn.Module, stack: StackWiring, place: str) -> BlockShape:
    hidden, neurons = _features(block.get_submodule(stack.mlp.output), stack)
    shapes = {_read_attention(block, stack, attention, place) for attention in stack.attentions}
    if len(shapes) > 1:
        raise NirvanaError(f"{place}: self- and cross-attention differ in heads: {sorted(shapes)}.")
    heads, kv_heads, head_dim = shapes.pop()
    for projection in present_inputs(block, stack.mlp):
        rows, _ = _features(block.get_submodule(projection.path), stack)
        if rows != neurons * len(projection.parts):
            raise NirvanaError(
                f"{place}: {projection.path} has {rows} rows for {neurons} neurons, expected "
                f"{len(projection.parts)} a neuron."
            )
    return hidden, heads, kv_heads, head_dim, neurons


def _read_attention(
    block: nn.Module, stack: StackWiring, attention: AttentionWiring, place: str
) -> tuple[int, int, int]:
    head_dim = int(getattr(block.get_submodule(attention.core), attention.head_dim))
    _, width = _features(block.get_submodule(attention.output), stack)
    heads = _divide(width, head_dim, f"{place}: {attention.output} has {width} columns")
    per_unit: dict[Unit, int] = {"query": heads}
    for projection in sorted(present_inputs(block, attention), key=lambda p: "kv" not in p.parts):
        rows, _ = _features(block.get_submodule(projection.path), stack)
        what = f"{place}: {projection.path} has {rows} rows"
        total = _divide(rows, head_dim, what)
        num_kv = projection.parts.count("kv")
        if "kv" not in per_unit and num_kv:
            rest = total - heads * projection.parts.count("query")
            per_unit["kv"] = _divide(rest, num_kv, what)
        expected = sum(per_unit[part] for part in projection.parts)
        if total != expected:
            raise NirvanaError(f"{what}, expected {expected} heads of {head_dim}.")
    kv_heads = per_unit["kv"]
    _divide(heads, kv_heads, f"{place}: {heads} query heads")
    return heads, kv_heads, head_dim


def _divide(number: int, divisor: int, what: str) -> int:
    if divisor < 1 or number < divisor or number % divisor:
        raise NirvanaError(f"{what}, which {divisor} does not divide.")
    return number // divisor


def _features(module: nn.Module, stack: StackWiring) -> tuple[int, int]:
    """Return (out, in) of a linear map."""
    weight = cast(nn.Parameter, module.weight)
    rows, columns = weight.shape
    return (columns, rows) if stack.transposed else (rows, columns)


def _measure_units(blocks: nn.ModuleList, stack: StackWiring, shape: BlockShape) -> UnitSizes:
    """Count the parameters of each unit; block 1 where there is one, the first may hold more."""
    block = blocks[1] if len(blocks) > 1 else blocks[0]
    hidden, heads, kv_heads, head_dim, neurons = shape
    weights = {"query": hidden * head_dim, "kv": 0, "neuron": hidden}  # the output's columns
    biases = {"query": 0, "kv": 0, "neuron": 0}
    for part in (stack.attention, stack.mlp):
        for projection in present_inputs(block, part):
            module = block.get_submodule(projection.path)
            _, columns = _features(module, stack)
            for unit in projection.parts:
                rows = 1 if unit == "neuron" else head_dim
                weights[unit] += rows * columns
                biases[unit] += rows if getattr(module, "bias", None) is not None else 0
    core = block.get_submodule(stack.attention.core)
    sizes = {
        "attention_bias": _count_bias(block, stack.attention.output),
        "attention_rest": _count_rest(core, block, stack.attention),
        "mlp_bias": _count_bias(block, stack.mlp.output),
    }
    num_attentions = len(stack.attentions)
    claimed = num_attentions * (
        heads * (weights["query"] + biases["query"])
        + kv_heads * (weights["kv"] + biases["kv"])
        + sizes["attention_bias"]
        + sizes["attention_rest"]
    )
    claimed += neurons * (weights["neuron"] + biases["neuron"]) + sizes["mlp_bias"]
    rests = [_count_unshared(b, stack) - claimed for b in (block, blocks[0])]
    return UnitSizes(
        query_head_weights=weights["query"],
        query_head_biases=biases["query"],
        kv_head_weights=weights["kv"],
        kv_head_biases=biases["kv"],
        neuron_weights=weights["neuron"],
        neuron_biases=biases["neuron"],
        **sizes,
        norms=rests[0],
        first_block_lacks=rests[0] - rests[1],
    )


def _count_unshared(block: nn.Module, stack: StackWiring) -> int:
    """Count a block's parameters, less the first block's bias table, which all blocks share."""
    core = block.get_submodule(stack.attention.core)
    table = stack.attention.bias_table
    shared = sum(p.numel() for p in _parameters(core, table)) if table else 0
    return sum(p.numel() for p in block.parameters()) - shared


def _count_bias(block: nn.Module, path: str) -> int:
    bias = getattr(block.get_submodule(path), "bias", None)
    return 0 if bias is None else int(bias.numel())


def _count_rest(core: nn.Module, block: nn.Module, attention: AttentionWiring) -> int:
    """Count what the core holds besides its linear maps and a shared bias table."""
    claimed = {p for path in _list_linears(attention) for p in _parameters(block, path)}
    if attention.bias_table:
        claimed |= {*_parameters(core, attention.bias_table)}
    return sum(p.numel() for p in core.parameters() if p not in claimed)


def _parameters(root: nn.Module, path: str) -> list[nn.Parameter]:
    module = find_module(root, path)
    return [] if module is None else list(module.parameters())
