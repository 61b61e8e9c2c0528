"""Writes a checkpoint's weights with zeros where a server wants more units than there are.

A zero head puts nothing through the output projection, nor does a zero neuron: what the model
computes is the same. Tensors go through one at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nirvana_deploy.serving.vllm.layer_sizes import CheckpointSizes, LayerSize
from pruning.checkpoints.checkpoint_source import INDEX_FILE, StoredTensor, list_tensors
from pruning.cutting.tensor_cutter import Fate
from pruning.cutting.tensor_writer import TensorHeader, write_tensors
from pruning.errors import NirvanaError

Positions = tuple[tuple[int, ...], int]  # where the source's rows or columns go, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedTensor:
    """One tensor to write.

    Attributes:
        layer: the block that it is in; None outside of them.
        source: what it is made of; a tensor of another layer, for its shape, where `is_new`.
        is_new: all of it is zeros: the layer had none.
    """

    spec: TensorHeader
    layer: int | None
    source: StoredTensor
    fate: Fate
    is_new: bool = False

    @property
    def num_parameters(self) -> int:
        """All that is written."""
        return math.prod(self.spec.shape)

    @property
    def added_parameters(self) -> int:
        """Zeros in it."""
        return self.num_parameters - (0 if self.is_new else math.prod(self.source.shape))

    @property
    def added_bytes(self) -> int:
        """Bytes of the zeros."""
        return self.added_parameters * self.spec.size_bytes // self.num_parameters

    def make(self) -> torch.Tensor:
        """Read the source and put it among zeros."""
        tensor = self.source.read()
        return tensor.new_zeros(self.spec.shape) if self.is_new else self.fate.apply(tensor)


def plan_tensors(
    checkpoint: Path,
    sizes: CheckpointSizes,
    held: Sequence[LayerSize],
    left_out: frozenset[tuple[int, str]] = frozenset(),
) -> list[PaddedTensor]:
    """Say how each tensor of a checkpoint is written where its layers become `held`.

    `left_out` are (layer, module) whose tensors do not go along: norms of parts that are empty.

    Raises:
        NirvanaError: a layer is to get a part that no layer of the checkpoint has.
    """
    blocks = re.compile(rf"(.*\b)?{re.escape(sizes.stack.blocks)}\.(\d+)\.(.+)\.(\w+)")
    planned, models = [], dict[str, tuple[int, str, StoredTensor]]()
    present = set[tuple[int, str]]()
    for tensor in list_tensors(checkpoint):
        found = blocks.fullmatch(tensor.name)
        if found is None:
            spec = TensorHeader(tensor.name, tensor.dtype, tensor.shape)
            planned.append(PaddedTensor(spec=spec, layer=None, source=tensor, fate=Fate("")))
            continue
        number, path, kind = int(found[2]), found[3], found[4]
        if (number, path) in left_out:
            continue
        present.add((number, f"{path}.{kind}"))
        models.setdefault(f"{path}.{kind}", (number, path, tensor))
        planned.append(_pad(tensor.name, number, path, kind, tensor, sizes, held, is_new=False))
    for number, size in enumerate(held):
        for path_and_kind in _list_missing(size, number, sizes, models, present):
            _, path, tensor = models[path_and_kind]
            kind = path_and_kind.rpartition(".")[2]
            prefix = tensor.name.removesuffix(f"{models[path_and_kind][0]}.{path_and_kind}")
            name = f"{prefix}{number}.{path_and_kind}"
            planned.append(_pad(name, number, path, kind, tensor, sizes, held, is_new=True))
    return planned


def write_padded(tensors: Sequence[PaddedTensor], folder: Path) -> None:
    """Write the tensors into `folder`, in files of the source's names; new ones in its last."""
    files: dict[str, list[PaddedTensor]] = {}
    last = max(tensor.source.file.name for tensor in tensors)
    for tensor in tensors:
        files.setdefault(last if tensor.is_new else tensor.source.file.name, []).append(tensor)
    for name, members in files.items():
        write_tensors(folder / name, [member.spec for member in members], _make_each(members))
    if len(files) > 1:
        weight_map = {m.spec.name: name for name, members in files.items() for m in members}
        total = sum(tensor.spec.size_bytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def find_biases(checkpoint: Path, sizes: CheckpointSizes) -> frozenset[tuple[int, str]]:
    """Return (layer, "attention" or "mlp") of output projections that have a bias."""
    outputs = {sizes.stack.attention.output: "attention", sizes.stack.mlp.output: "mlp"}
    names = [tensor.name for tensor in list_tensors(checkpoint)]
    return frozenset(
        (number, part)
        for number in range(len(sizes.layers))
        for path, part in outputs.items()
        if any(name.endswith(f"{sizes.stack.blocks}.{number}.{path}.bias") for name in names)
    )


def _make_each(members: Sequence[PaddedTensor]) -> Iterator[torch.Tensor]:
    for member in members:
        yield member.make()


def _pad(
    name: str,
    number: int,
    path: str,
    kind: str,
    tensor: StoredTensor,
    sizes: CheckpointSizes,
    held: Sequence[LayerSize],
    is_new: bool,
) -> PaddedTensor:
    has = held[number] if is_new else sizes.layers[number]
    fate = _place(path, kind, sizes, has, held[number])
    spec = TensorHeader(name, tensor.dtype, fate.resize(tensor.shape))
    return PaddedTensor(spec=spec, layer=number, source=tensor, fate=fate, is_new=is_new)


def _place(path: str, kind: str, sizes: CheckpointSizes, has: LayerSize, held: LayerSize) -> Fate:
    """Return where a tensor's rows, or an output projection's columns, go among zeros."""
    attention, mlp, width = sizes.stack.attention, sizes.stack.mlp, sizes.head_dim
    by_unit = {
        "query": _spread(_place_heads(has, held), held.num_heads, width),
        "kv": _spread(tuple(range(has.num_kv_heads)), held.num_kv_heads, width),
        "neuron": (tuple(range(has.num_neurons)), held.num_neurons),
    }
    for projection in (*attention.inputs, *mlp.inputs):
        if path == projection.path:
            return Fate("", 0, None, by_unit[projection.parts[0]])
    if kind == "weight" and path in (attention.output, mlp.output):
        return Fate("", 1, None, by_unit["query" if path == attention.output else "neuron"])
    return Fate("")


def _place_heads(has: LayerSize, held: LayerSize) -> tuple[int, ...]:
    """Return the new number of each query head: it stays with its KV head."""
    size = has.heads_per_group
    return tuple(
        group * held.heads_per_group + head
        for group in range(has.num_kv_heads)
        for head in range(size)
    )


def _spread(units: tuple[int, ...], total: int, width: int) -> Positions:
    return tuple(unit * width + i for unit in units for i in range(width)), total * width


def _list_missing(
    size: LayerSize,
    number: int,
    sizes: CheckpointSizes,
    models: dict[str, tuple[int, str, StoredTensor]],
    present: set[tuple[int, str]],
) -> list[str]:
    """Return the tensors of a whole layer's parts that this layer lacks and is to have."""
    missing = []
    attention, mlp = sizes.stack.attention, sizes.stack.mlp
    has = sizes.layers[number]
    for wanted, there, part in (
        (size.num_heads, has.num_heads, attention),
        (size.num_neurons, has.num_neurons, mlp),
    ):
        if not wanted or there:
            continue
        core = f"{part.core}."
        names = [name for name in models if name.startswith(core)]
        if not any(name.startswith(f"{part.output}.") for name in names):
            raise NirvanaError(
                f"Layer {number} has no {part.core}, nor has any other layer, and the server gives "
                "every layer one. Keep it in one layer at least."
            )
        missing += [name for name in names if (number, name) not in present]
    return missing
