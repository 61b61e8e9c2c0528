"""Profiles any two of checkpoint, export, ONNX file and engine: each by what runs its kind."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.compare.open_artefact import find_kind
from profiles.comparing.comparison import compare_latency
from profiles.comparing.generation import compare_generation
from profiles.comparing.load_points import measure_loads
from profiles.comparing.profile_result import ProfileResult
from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.measurement import draw_progress
from profiles.measuring.memory import MemoryFigures, watch_memory
from profiles.runners.open_runner import find_graph, fit_call, open_runner
from profiles.runners.runner import Runner, open_stepper
from profiles.runners.token_inputs import make_call_inputs
from pruning.errors import NirvanaError
from pruning.progress import Progress

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphForm:
    """Describe how a graph is written, apart from its sizes.

    Attributes:
        opsets: by domain, the version.
        weight_types: of initializers with two or more dimensions, such as FLOAT, INT8.
    """

    producer: str
    opsets: dict[str, int]
    num_nodes: int
    operators: frozenset[str]
    weight_types: frozenset[str]


def read_graph_form(onnx_path: Path) -> GraphForm:
    """Read an ONNX file without its external data."""
    import onnx

    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to profile.")
    try:
        model = onnx.load(str(onnx_path), load_external_data=False)
        return _read_form(model)
    except Exception as error:  # protobuf's and of a type that ONNX does not know
        raise NirvanaError(
            f"{onnx_path} is not a readable ONNX file: {error}. Export it again."
        ) from error


def _read_form(model: onnx.ModelProto) -> GraphForm:
    from onnx import TensorProto

    types = TensorProto.DataType
    weights = (tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)
    return GraphForm(
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        num_nodes=len(model.graph.node),
        operators=frozenset(node.op_type for node in model.graph.node),
        weight_types=frozenset(types.Name(tensor.data_type) for tensor in weights),
    )


def list_differences(dense: GraphForm, pruned: GraphForm) -> list[str]:
    """Say in words what makes the two different forms; empty when they are alike.

    An operator that only the dense graph has is no difference: what was pruned away needs none.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("producer", dense.producer, pruned.producer),
        ("opset", _write(dense.opsets), _write(pruned.opsets)),
        ("weight types", _join(dense.weight_types), _join(pruned.weight_types)),
    ]
    found = [
        f"the graphs differ in form, {what}: dense {of_dense or 'none'}, pruned "
        f"{of_pruned or 'none'}"
        for what, of_dense, of_pruned in pairs
        if of_dense != of_pruned
    ]
    added = _join(pruned.operators - dense.operators)
    return [*found, f"the pruned graph alone has the operators {added}"] if added else found


def _write(opsets: dict[str, int]) -> str:
    return ", ".join(f"{domain} {version}" for domain, version in sorted(opsets.items()))


def _join(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


_NAMES = ("dense", "pruned")


def profile_artefacts(
    dense: str,
    pruned: str,
    config: ProfileConfig,
    progress: Progress | None = None,
) -> ProfileResult:
    """Compare what two paths name: `dense` is what is compared with, `pruned` what is compared.

    With `config.generate`, text is generated too (see `compare_generation`). Without
    `progress`, a bar is drawn on the standard error when that is a terminal.

    Raises:
        MissingExtraError: what runs one of them is not installed.
        NirvanaError: one of them cannot be opened or run, or the two take different inputs.
    """
    sources = dict(zip(_NAMES, (dense, pruned), strict=True))
    kinds = {name: find_kind(source) for name, source in sources.items()}
    forms = {
        name: read_graph_form(find_graph(Path(sources[name])))
        for name, kind in kinds.items()
        if kind == "onnx"
    }
    config = fit_call((dense, pruned), config)
    opened: dict[str, Runner] = {}
    memory: dict[str, MemoryFigures] = {}
    for name, source in sources.items():
        opened[name], memory[name] = _open(source, name, config)
    runners = opened["dense"], opened["pruned"]
    if config.generate:  # refused now, not after the calls are measured
        for runner in runners:
            open_stepper(runner)
    with contextlib.nullcontext(progress) if progress else draw_progress() as shown:
        result = compare_latency(*runners, config, progress=shown)
        if config.generate and result.partial is None:
            generations, partial = compare_generation(*runners, config, progress=shown)
            result = replace(result, generations=generations, partial=partial)
        if (config.callers or config.rates_per_s) and result.partial is None:
            loads, partial = measure_loads(runners, config)
            result = replace(result, loads=loads, partial=partial)
    notes = [*_list_doubts(kinds, runners)]
    method = {
        **result.method,
        "artefacts": {n: {"path": sources[n], "kind": kinds[n]} for n in _NAMES},
    }
    if len(forms) == len(_NAMES):
        differences = list_differences(forms["dense"], forms["pruned"])
        notes += differences
        method["graphs"] = _describe_forms(forms, differences)
    return replace(
        result,
        method=method,
        memory=memory,
        cases=tuple(replace(case, notes=(*case.notes, *notes)) for case in result.cases),
    )


def _open(source: str, name: str, config: ProfileConfig) -> tuple[Runner, MemoryFigures]:
    """Load a model and run it once on the largest batch, watching what memory that takes."""
    with watch_memory() as growth:
        runner = open_runner(source, name=name, config=config)
        runner.bind(make_call_inputs(runner, config, max(config.batch_sizes)))
    return runner, growth.to_json()


def _list_doubts(kinds: Mapping[str, str], runners: tuple[Runner, Runner]) -> list[str]:
    """Say what a ratio of two kinds has in it besides the models."""
    described = [runner.describe() for runner in runners]
    found = []
    if len(set(kinds.values())) > 1:
        found.append(
            f"dense is run by {described[0]['runtime']}, pruned by {described[1]['runtime']}: the "
            "ratio is of both, model and run-time"
        )
        threads = [each.get("num_threads", 1) for each in described]
        if max(threads) > 1:
            found.append(
                "the threads of one run-time may spin while the other runs; num_threads 1 or "
                "OMP_WAIT_POLICY=passive rules it out"
            )
    semantics = [each.get("semantics") for each in described]
    if semantics[0] != semantics[1]:
        found.append("the two latencies have different semantics: see method")
    return found


def _describe_forms(forms: dict[str, GraphForm], differences: list[str]) -> dict[str, object]:
    return {
        "same_form": not differences,
        "differences": differences,
        **{
            name: {"producer": form.producer, "opsets": form.opsets, "num_nodes": form.num_nodes}
            for name, form in forms.items()
        },
    }
