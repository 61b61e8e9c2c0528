"""What the verbs for ONNX files do: prune one by a plan, show what one has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana_deploy.verbs.byte_progress import show_bytes
from nirvana_deploy.verbs.tables import make_console, print_json, print_pairs
from nirvana_deploy.verbs.verb import Verb
from pruning.machine_limits import explain_limits
from pruning.plans.plan import PruningPlan

if TYPE_CHECKING:
    from exporters.graphs.graph_structure import GraphStructure


def add_surgeon_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `nirvana surgeon` takes."""
    parser.add_argument("dense", type=Path, help="ONNX file of the dense model, whoever wrote it")
    parser.add_argument("plan", type=Path, help="plan.json: what is kept")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="new ONNX file; weights that lie beside the dense graph come to FILE.data",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="apply a plan that was made on other weights of the same sizes",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_surgeon(args: argparse.Namespace) -> int:
    """Prune an ONNX file."""
    from exporters.surgeon.prune_onnx import prune_onnx

    plan = PruningPlan.load(args.plan)
    with explain_limits("surgeon", args.out.parent), show_bytes("surgeon") as progress:
        result = prune_onnx(args.dense, plan, args.out, force=args.force, progress=progress)
    if args.json:
        print_json(result.to_json())
    else:
        print_pairs("Pruned", result.headline())
    return 0


def is_onnx(source: str) -> bool:
    """Return whether `nirvana inspect` is given an ONNX file, or a folder of them."""
    from exporters.inspect_export import is_export

    return source.endswith(".onnx") or is_export(source)


def inspect_graph(source: str, *, as_json: bool) -> int:
    """Show the heads and widths of an ONNX file, or of each in a folder."""
    from exporters.graphs.graph_structure import inspect_onnx

    if not source.endswith(".onnx"):
        return _inspect_folder(source, as_json=as_json)
    structure = inspect_onnx(Path(source))
    if as_json:
        print_json({"onnx": source, **structure.to_json()})
    else:
        _print_graph(source, structure)
    return 0


def _inspect_folder(source: str, *, as_json: bool) -> int:
    from exporters.inspect_export import inspect_export

    found = inspect_export(Path(source))
    if as_json:
        print_json({"export": source, **found.to_json()})
        return 0
    if found.told:
        print_pairs(source, [(name, _show(value)) for name, value in found.told.items()])
    for name, structure in found.graphs.items():
        _print_graph(name, structure)
    for reason in found.unknown.values():
        make_console().print(reason)
    return 0


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return f"{value:.2e}" if isinstance(value, float) else str(value)


def _print_graph(name: str, structure: GraphStructure) -> None:
    from rich.table import Table

    table = Table()
    for column in ("", "heads", "KV heads", "head dim", "neurons"):
        table.add_column(column, justify="right")
    table.add_column("output projection")
    for row in structure.rows:
        counts = (row.num_heads, row.num_kv_heads, row.head_dim, row.num_neurons)
        cells = ["" if count is None else f"{count:,}" for count in counts]
        table.add_row(row.kind, *cells, row.scope or row.weight)
    console = make_console()
    console.print(
        f"{name}: opset {structure.opset}, by {structure.producer}, {structure.num_nodes:,} nodes, "
        f"{structure.num_parameters:,} parameters"
    )
    console.print(table)
    if structure.num_unknown_attentions:
        console.print(
            f"{structure.num_unknown_attentions} more attention operators or softmaxes, in nothing "
            "that is known as an attention"
        )
    console.print(f"inputs: {', '.join(structure.inputs)}\noutputs: {', '.join(structure.outputs)}")


SURGEON = Verb(
    name="surgeon",
    usage="DENSE_ONNX PLAN -o FILE [--force] [--json]",
    summary="prune an ONNX file by a plan, without torch",
    description="Write the ONNX file of a dense model as a plan leaves it: the graph that an "
    "export of the pruned checkpoint gives, in a fraction of the time.",
    add_arguments=add_surgeon_arguments,
    run=run_surgeon,
)
