"""What was proved about the artifacts: ONNX against torch, the engine's audit, the package."""

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.markup import Html, definitions, element, join, paragraph, table
from nirvana_deploy.report.numbers import (
    MISSING,
    TIMES,
    format_bytes,
    format_count,
    format_decimal,
    format_duration,
    format_error,
)
from nirvana_deploy.report.results import StageState
from nirvana_deploy.report.serving_results import Build, Export, Graph, Package, ShapeCheck
from nirvana_deploy.report.training_results import StoredProof


def draw_absence(state: StageState) -> Html:
    """Say that a stage was skipped, why and what would bring it, or that it was not run."""
    if state.status == "skipped":
        lines = [element("strong", f"The {state.name} stage was skipped."), " ", state.reason or ""]
        if state.install:
            lines += [element("br"), "To have it: ", element("code", state.install)]
    else:
        lines = [
            element("strong", f"The {state.name} stage has not been run in this folder."),
            " Run the recipe again to go on from the stages that are done.",
        ]
    return element("p", *lines, class_="absent")


def draw_proofs(proofs: tuple[StoredProof, ...]) -> Html:
    """Say which forms of the pruned model were found to compute the same."""
    if not proofs:
        return paragraph("Loaded equals saved: not recorded in this run.", class_="note")
    return table(
        "Forms of the pruned model: largest absolute difference of the logits",
        ("Compared", "Rows", "Difference", "Tolerance", "Verdict"),
        [_proof_row(proof) for proof in proofs],
    )


def draw_export(export: Export) -> Html:
    """Draw each compared batch with its difference and the tolerance, then the files."""
    graphs = (("Dense", export.dense), ("Pruned", export.pruned))
    rows = [_check_row(name, graph, case) for name, graph in graphs for case in graph.checks]
    compared = table(
        "ONNX against torch: largest absolute difference of the logits",
        (
            "Model",
            "Batch",
            "Length",
            "Padded",
            "Call",
            "Difference",
            "Largest value",
            "Allowed",
            "Verdict",
        ),
        rows or [(MISSING,) * 9],
    )
    note = (
        "Allowed is the tolerance, and times the largest value of the source where that is above 1."
    )
    files = table(
        "ONNX files",
        ("Model", "File", "Size", "Opset", "Nodes", "Worst difference", "SHA-256"),
        [_file_row(name, graph) for name, graph in graphs],
    )
    return join([compared, paragraph(note, class_="note"), files])


def draw_engine(build: Build, export: Export | None) -> Html:
    """Draw what was asked of the engine builder and what the build log was found to say."""
    found = ", ".join(f"{count} {precision}" for precision, count in build.precision_found)
    facts = [
        *([("Graph", build.graph)] if build.graph else []),
        ("Flavour", " ".join(filter(None, (build.flavour, build.version))) or MISSING),
        ("Precision asked", build.precision_asked or MISSING),
        ("Precision found, by layers", found or MISSING),
        ("Fused attentions", _fused(build)),
        ("Compute capabilities", ", ".join(build.compute_capabilities) or MISSING),
        ("Engine", f"{build.engine_path or MISSING}, {format_bytes(build.engine_size_bytes)}"),
        ("Build time", format_duration(build.build_seconds)),
        ("Built from", _source(build, export)),
    ]
    shapes = [
        table(
            "Optimisation profile" + (f" {name}" if len(build.profiles) > 1 else ""),
            ("Input", "Minimum", "Optimum", "Maximum"),
            [
                (taken, *(_shape(part, at) for at in ("min", "opt", "max")))
                for taken, part in inputs
            ],
        )
        for name, inputs in build.profiles
    ]
    warnings = element("ul", *(element("li", warning) for warning in build.warnings))
    note = "Building proves no speed: the latencies on this page are those of the profile stage."
    return join(
        [
            definitions(facts),
            warnings if build.warnings else "",
            *shapes,
            paragraph(note, class_="note"),
        ]
    )


def draw_package(package: Package) -> Html:
    """List the serving folder."""
    files = element("ul", *(element("li", element("code", name)) for name in package.files))
    models = ", ".join(package.models) or MISSING
    facts = definitions([("Folder", package.folder or MISSING), ("Models", models)])
    return join([facts, files if package.files else ""])


def _proof_row(proof: StoredProof) -> tuple[str, ...]:
    difference, tolerance = proof.max_abs_difference, proof.tolerance
    to_the_bit = _mark(True, "equal to the bit")
    return (
        f"{proof.left} and {proof.right}",
        format_count(proof.num_rows),
        format_error(difference),
        format_error(tolerance),
        to_the_bit if proof.bitwise_equal else _within(difference, tolerance),
    )


def _check_row(name: str, graph: Graph, case: ShapeCheck) -> tuple[str, ...]:
    padded = MISSING if case.padded is None else ("yes" if case.padded else "no")
    return (
        name,
        format_count(case.batch),
        format_count(case.length),
        padded,
        case.what or MISSING,
        format_error(case.max_abs_difference),
        format_decimal(case.largest, 2),
        format_error(case.allowed(graph.tolerance)),
        _within(case.max_abs_difference, case.allowed(graph.tolerance)),
    )


def _file_row(name: str, graph: Graph) -> tuple[str, ...]:
    return (
        name,
        graph.onnx_path or MISSING,
        format_bytes(graph.size_bytes),
        format_count(graph.opset),
        format_count(graph.num_nodes),
        format_error(graph.max_abs_difference),
        _hash(graph.sha256),
    )


def _within(difference: float | None, tolerance: float | None) -> str:
    if difference is None or tolerance is None:
        return MISSING
    return _mark(difference <= tolerance, "within" if difference <= tolerance else "exceeded")


def _mark(good: bool, words: str) -> Html:
    sign = element("span", "✓ " if good else "✗ ", aria_hidden="true")
    return element("strong", sign, words, class_="good" if good else "bad")


def _fused(build: Build) -> str:
    fused, layers = build.num_fused_attentions, build.num_attention_layers
    if fused is None or layers is None:
        return MISSING
    return _mark(fused >= layers, f"{fused} of {layers} attention layers")


def _source(build: Build, export: Export | None) -> str:
    if build.onnx_sha256 is None:
        return MISSING
    if export is None or export.pruned.sha256 is None:
        return join(["ONNX file ", _hash(build.onnx_sha256)])
    same = build.onnx_sha256 in export.pruned.hashes
    words = "the pruned ONNX file above" if same else "another ONNX file than the one above"
    return join([_mark(same, words), " ", _hash(build.onnx_sha256)])


def _hash(sha256: str | None) -> str:
    return MISSING if sha256 is None else element("code", sha256[:12], title=sha256)


def _shape(part: Fields, at: str) -> str:
    sizes = (format_count(round(size)) for size in part.numbers(at))
    return f" {TIMES} ".join(sizes) or MISSING
