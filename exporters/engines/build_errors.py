"""Turns what a parser or a builder logs into an error that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from exporters.engines.engine_config import EngineConfig

if TYPE_CHECKING:
    import onnx

_OUT_OF_MEMORY = re.compile(r"OutOfMemory|out of memory|could not be allocated", re.IGNORECASE)
_NO_DRIVER = re.compile(r"cudaError (?:35|100)|CUDA_SUCCESS|driver version is insufficient")

# What TensorRT's own words mean, the particular before the general.
_MEANINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (
            r"no importer registered|plugin .*not found|plugin creator|checkFallbackPluginImporter",
            "TensorRT has no operator of that name, and takes it for a plugin that is not loaded.",
        ),
        (
            r"target gpu sm ?\d+ is not supported|unsupported sm|no kernel image",
            "This release has no kernels for that compute capability. Install one that NVIDIA's "
            "support matrix lists for the GPU, or leave the capability out.",
        ),
        (
            r"could not find any implementation",
            "No kernel runs that node in its types and shapes on this GPU within the workspace. "
            "Raise workspace_mib, narrow batch, length and past, or export another precision.",
        ),
        (
            r"same (?:data ?)?types?|types? (?:mismatch|must match)|incompatible types|"
            r"unsupported (?:data ?)?type",
            "The network is strongly typed, and the node gets types that do not go together. "
            "Export the model in one precision by `nirvana export --precision`.",
        ),
        (
            r"kMIN|kOPT|kMAX|optimi[sz]ation profile|broadcast|dimension",
            "A shape that the graph computes does not fit for some size that the profile allows. "
            "Set batch, length and past to sizes that the model runs in ONNX Runtime.",
        ),
        (
            r"failed to parse|protobuf|external data|weights file",
            "The file, or the weights beside it, could not be read. Copy both again, or export the "
            "model again.",
        ),
    )
)


def explain(errors: Iterable[str]) -> str:
    """Return what common errors of a parser or a builder mean; starts with a space."""
    text = " ".join(errors)
    found = next((meaning for pattern, meaning in _MEANINGS if pattern.search(text)), "")
    return f" {found}" if found else ""


def describe_parser_errors(parser: Any) -> str:
    """Return the errors of an ONNX parser, each with its node and operator, and what they mean."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    described = [_describe(error) for error in errors]
    return f"{join_errors(described)}{explain(described)}"


def advise_on_operators(model: onnx.ModelProto) -> str:
    """Return what to do about a graph that the parser refused; starts with a space."""
    theirs = sorted({node.op_type for node in model.graph.node if node.domain == "com.microsoft"})
    if theirs:
        return (
            f" The graph has operators of ONNX Runtime ({', '.join(theirs)}): export the "
            "checkpoint with form tensorrt."
        )
    return (
        " Export a model that is computed without what was refused, or run this graph by ONNX "
        "Runtime, without an engine."
    )


def _describe(error: object) -> str:
    text = str(error).strip()
    node, operator = _call(error, "node_name"), _call(error, "node_operator")
    return f"node {node or '(unnamed)'} ({operator}): {text}" if operator else text


def _call(error: object, name: str) -> str:
    """Return what an error says of itself; TensorRT 10.12 may lack the method."""
    method = getattr(error, name, None)
    return str(method()) if method is not None else ""


def advise(errors: Iterable[str], config: EngineConfig) -> str:
    """Return what to do about a failed build, where its errors tell it; starts with a space."""
    text = " ".join(errors)
    limit = "no limit" if config.workspace_mib is None else f"{config.workspace_mib} MiB"
    if _OUT_OF_MEMORY.search(text):
        return (
            f" The GPU ran out of memory; the workspace has {limit}. Lower batch.max, length.max "
            "or past.max, or set a lower workspace_mib."
        )
    if "workspace" in text.lower() and config.workspace_mib is not None:
        return (
            f" Raise workspace_mib, which is {config.workspace_mib}, or lower batch.max, "
            "length.max or past.max."
        )
    if "nvinfer_lean" in text:
        return (
            " version_compatible needs the lean runtime (libnvinfer_lean), which is not in this "
            "installation of the flavour. Leave it out."
        )
    if _NO_DRIVER.search(text):
        option = "refittable needs" if config.refittable else "This build needs"
        return (
            f" {option} a GPU and its driver at build time. Build it on the machine with the GPU."
        )
    return explain([text])


def join_errors(errors: list[str] | tuple[str, ...]) -> str:
    """Return error messages as one text."""
    return "; ".join(errors) or "it gave no reason."
