"""The command `nirvana`: parses, calls one verb, prints messages instead of tracebacks.

Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

from pruning.checkpoints.remote_code import allow_remote_code
from pruning.errors import NirvanaError, NirvanaWarning
from pruning.machine_limits import explain_limit

_DESCRIPTION = (
    "From a Hugging Face Transformer and a budget to a smaller model in a server folder. "
    "`nirvana VERB --help` lists a verb's settings."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not sys.stderr.isatty():  # a bar that is redrawn is noise in a log
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        with _plain_warnings(), _safe_children():
            code = _run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _complain("Interrupted. What was finished is kept; the same command continues from there.")
        return 130
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        verb = next((word for word in arguments if not word.startswith("-")), "nirvana")
        limit = explain_limit(error, verb)
        if limit is not None or isinstance(error, NirvanaError):
            _complain(f"error: {limit or error}")
        else:
            _complain(
                f"error: unexpected {type(error).__name__}: {error}\nRun again with --debug to see "
                "where it came from."
            )
        return 1


def _run(arguments: list[str]) -> int:
    parser = _make_parser(arguments)
    try:
        namespace, unknown = parser.parse_known_args(arguments)
        if unknown:
            _refuse_unknown(parser, namespace, unknown)
    except SystemExit as stop:
        return int(stop.code or 0)
    if namespace.verb is None:
        parser.print_help()
        return 0
    with allow_remote_code(getattr(namespace, "trust_remote_code", False)):
        return int(namespace.run(namespace))


def _make_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    from nirvana_deploy.verbs.verb_list import VERBS

    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    parser = argparse.ArgumentParser(
        prog="nirvana", description=_DESCRIPTION, parents=[debug], allow_abbrev=False
    )
    parser.add_argument(
        "--version", action="version", version=f"nirvana {version('nirvana-deploy')}"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb in VERBS:
        child = verbs.add_parser(
            verb.name,
            usage=f"nirvana {verb.name} {verb.usage}",
            help=verb.summary,
            description=verb.description or verb.summary,
            parents=[debug],
            allow_abbrev=False,
        )
        child.set_defaults(run=verb.run, parser=child)
        if verb.name in arguments:  # the flags of the other verbs are not needed
            verb.add_arguments(child)
            if verb.loads_models:
                child.add_argument(
                    *("--trust_remote_code", "--trust-remote-code"),
                    action="store_true",
                    help="run the code that a model's folder brings along, if it needs any",
                )
    return parser


def _refuse_unknown(
    parser: argparse.ArgumentParser, namespace: argparse.Namespace, unknown: list[str]
) -> None:
    child: argparse.ArgumentParser = getattr(namespace, "parser", parser)
    flags = [flag for action in child._actions for flag in action.option_strings]
    word = next((text for text in unknown if text.startswith("-")), unknown[0])
    nearest = get_close_matches(word.split("=", 1)[0], flags, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; `{child.prog} --help` lists all."
    child.error(f"unknown argument {word}{hint}")


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our own warnings as one line, and every other as Python does."""
    with warnings.catch_warnings():
        original = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, NirvanaWarning):
                _complain(f"warning: {message}")
            else:
                original(message, category, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextlib.contextmanager
def _safe_children() -> Iterator[None]:
    """Keep the current folder off the import path of every Python process that a verb starts.

    What the user put on PYTHONPATH stays.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
