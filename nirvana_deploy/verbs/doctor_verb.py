"""The verb `nirvana doctor`."""

from __future__ import annotations

import argparse

from nirvana_deploy.verbs.verb import Verb


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _doctor(args: argparse.Namespace) -> int:
    from nirvana_deploy.doctor import examine_machine, print_findings

    print_findings(examine_machine(), as_json=args.json)
    return 0


DOCTOR = Verb(
    name="doctor",
    usage="[--json]",
    summary="show what this machine can do, and what to install for the rest",
    add_arguments=_add_doctor,
    run=_doctor,
)
