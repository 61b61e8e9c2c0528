"""Which graphs become versions of one model in Triton, and which become models of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from exporters.io_names import CACHE_PREFIXES, is_past
from nirvana_deploy.serving.onnx_signature import (
    OnnxSignature,
    TensorSignature,
    read_signature,
)
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from pruning.errors import NirvanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedModel:
    """A model of the repository. `graphs` are its versions, from 1."""

    name: str
    graphs: tuple[Path, ...]
    signature: OnnxSignature


def arrange_models(sources: OnnxSources, config: PackageConfig) -> tuple[PlacedModel, ...]:
    """Return the models, the one that requests are for last.

    Dense and pruned are versions of it where they take and give the same. Where nothing but the
    sizes of their caches differs, as in a decoder that lost KV heads, the dense one is a model of
    its own, NAME-dense: Triton has one configuration for all versions.

    Raises NirvanaError where more differs, or what was asked for needs versions.
    """
    signatures = [read_signature(path) for path in sources.graphs]
    first, last = signatures[0], signatures[-1]
    model = PlacedModel(name=config.model_name, graphs=sources.graphs, signature=last)
    if (first.inputs, first.outputs) == (last.inputs, last.outputs):
        return (model,)
    if _drop_caches(first) != _drop_caches(last) or not _has_cache(first) or not _has_cache(last):
        raise NirvanaError(
            f"{sources.graphs[0]} and {sources.graphs[-1]} are not two forms of one model: "
            f"{_find_difference(first, last)}. Export both the same way."
        )
    if config.ab:
        raise NirvanaError(
            "ab replays the same requests against dense and pruned, and their caches differ: "
            f"{_find_difference(first, last)}. Leave it out."
        )
    dense = PlacedModel(
        name=f"{config.model_name}-dense", graphs=sources.graphs[:1], signature=first
    )
    return dense, replace(model, graphs=sources.graphs[1:])


def _drop_caches(signature: OnnxSignature) -> tuple[list[TensorSignature], ...]:
    return tuple(
        [tensor for tensor in tensors if not tensor.name.startswith(CACHE_PREFIXES)]
        for tensors in (signature.inputs, signature.outputs)
    )


def _has_cache(signature: OnnxSignature) -> bool:
    return any(is_past(tensor.name) for tensor in signature.inputs)


def _find_difference(first: OnnxSignature, last: OnnxSignature) -> str:
    """Describe the first input or output that is not the same in both."""
    for kind in ("inputs", "outputs"):
        one, other = (
            {tensor.name: tensor for tensor in getattr(each, kind)} for each in (first, last)
        )
        for name in (*one, *other):
            if one.get(name) != other.get(name):
                return (
                    f"{kind[:-1]} {name} is {_describe(one.get(name))} in the first, "
                    f"{_describe(other.get(name))} in the second"
                )
    return f"the {kind} come in another order"


def _describe(tensor: TensorSignature | None) -> str:
    return "not there" if tensor is None else f"{tensor.data_type} {list(tensor.dims)}"
