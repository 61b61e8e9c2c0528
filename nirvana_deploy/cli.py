"""The command `nirvana`: parses, calls one verb, prints messages instead of tracebacks.

Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from nirvana_deploy.verbs.verb import VERB_NAMES, Verb, load_verb
from pruning.checkpoints.remote_code import allow_remote_code
from pruning.errors import NirvanaError, NirvanaWarning
from pruning.machine_limits import explain_limit

_DESCRIPTION = (
    "From a Hugging Face Transformer and a budget to a smaller model in a server folder. "
    "`nirvana VERB --help` lists a verb's usual settings, `nirvana VERB --help-all` all of them."
)
_SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    try:
        namespace = _parse(words)
        if namespace is None:
            return 0
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    with contextlib.ExitStack() as stack:
        try:
            complain = stack.enter_context(_direct_messages(namespace))
        except OSError as error:
            sys.stderr.write(
                f"error: Cannot write the log {namespace.log_file}: {error.strerror}. Choose a "
                "file that can be written.\n"
            )
            return 1
        return _run(namespace, complain)


def _run(namespace: argparse.Namespace, complain: _Complain) -> int:
    if not sys.stderr.isatty():  # a bar that is redrawn is noise in a log
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        with (
            _plain_warnings(complain),
            _safe_children(),
            allow_remote_code(getattr(namespace, "trust_remote_code", False)),
        ):
            code = int(namespace.run(namespace))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        complain("Interrupted. What was finished is kept; the same command continues from there.")
        return 130
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if namespace.debug:
            complain(traceback.format_exc().rstrip())
        limit = explain_limit(error, namespace.verb)
        if limit is not None or isinstance(error, NirvanaError):
            complain(f"error: {limit or error}")
        else:
            complain(
                f"error: unexpected {type(error).__name__}: {error}\nRun again with --debug to see "
                "where it came from."
            )
        return 1


def _parse(words: list[str]) -> argparse.Namespace | None:
    """Return what was asked for; None where it was only help.

    Raises:
        SystemExit: wrong usage, or what argparse answers itself.
    """
    from nirvana_deploy.verbs.config_flags import normalize_flags

    place = next((i for i, word in enumerate(words) if not word.startswith("-")), None)
    if place is None or words[place - 1 : place] == ["--completion"]:
        parser = _make_top_parser()
        asked = parser.parse_args(words)
        if asked.completion is not None:
            from argcomplete.shell_integration import shellcode

            sys.stdout.write(shellcode(["nirvana"], shell=asked.completion) + "\n")
        else:
            parser.print_help()
        return None
    name = words[place]
    if name not in VERB_NAMES:
        nearest = get_close_matches(name, VERB_NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(VERB_NAMES)}."
        sys.stderr.write(f"nirvana: error: there is no verb {name!r}; {hint}\n")
        raise SystemExit(2)
    rest = [*words[:place], *words[place + 1 :]]
    parser = _make_parser(load_verb(name), helps_all="--help-all" in rest)
    namespace, unknown = parser.parse_known_args(normalize_flags(parser, rest))
    if unknown:
        _refuse_unknown(parser, unknown)
    return namespace


def _make_top_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nirvana", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--version", action="version", version=f"nirvana {version('nirvana-deploy')}"
    )
    parser.add_argument(
        "--completion",
        choices=_SHELLS,
        help='print the completion of a shell, for its start-up file: eval "$(nirvana '
        '--completion bash)"',
    )
    verbs = parser.add_subparsers(metavar="VERB")
    for name in VERB_NAMES:
        verbs.add_parser(name, help=load_verb(name).summary)
    return parser


def _make_parser(verb: Verb, *, helps_all: bool = False) -> argparse.ArgumentParser:
    from nirvana_deploy.verbs.config_flags import hide_unusual

    parser = argparse.ArgumentParser(
        prog=f"nirvana {verb.name}",
        usage=f"nirvana {verb.name} {verb.usage}",
        description=verb.description or verb.summary,
        allow_abbrev=False,
    )
    parser.set_defaults(run=verb.run, verb=verb.name)
    _add_arguments(parser, verb)
    if verb.usual is not None and not helps_all:
        hidden = hide_unusual(parser, verb.usual)
        parser.epilog = f"{hidden} more settings: `nirvana {verb.name} --help-all`."
    return parser


def _add_arguments(parser: argparse.ArgumentParser, verb: Verb) -> None:
    verb.add_arguments(parser)
    if verb.loads_models:
        parser.add_argument(
            "--trust-remote-code",
            action="store_true",
            help="run the code that a model's folder brings along, if it needs any",
        )
    group = parser.add_argument_group("what is printed")
    group.add_argument("--help-all", action="help", help="show the help with all settings")
    if verb.reports:
        group.add_argument("--json", action="store_true", help="print the result as JSON")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="no progress: results, warnings and errors only"
    )
    group.add_argument(
        "-v", "--verbose", action="store_true", help="show the messages of the libraries, too"
    )
    group.add_argument(
        "--log-file",
        type=Path,
        metavar="FILE",
        help="append progress, warnings and errors to this file, each line with its time",
    )
    group.add_argument("--debug", action="store_true", help="show tracebacks")


def _complete() -> None:
    """Answer a shell that completes a command line, and leave the process."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    parser = argparse.ArgumentParser(prog="nirvana", allow_abbrev=False)
    verbs = parser.add_subparsers()
    for name in VERB_NAMES:
        child = verbs.add_parser(name)
        if name in words:
            _add_arguments(child, load_verb(name))
    argcomplete.autocomplete(parser)


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: list[str]) -> None:
    flags = [flag for action in parser._actions for flag in action.option_strings]
    word = next((text for text in unknown if text.startswith("-")), unknown[0])
    nearest = get_close_matches(word.split("=", 1)[0], flags, n=1, cutoff=0.5)
    hint = (
        f"; did you mean {nearest[0]}?" if nearest else f"; `{parser.prog} --help-all` lists all."
    )
    parser.error(f"unknown argument {word}{hint}")


class _Complain:
    """Writes a message on the standard error that stays with --quiet, and into the log."""

    def __init__(self, log: _Log | None) -> None:
        self._stream, self._log = sys.stderr, log

    def __call__(self, message: str) -> None:
        self._stream.write(f"{message}\n")
        self._stream.flush()
        if self._log is not None:
            self._log.write_lines(message)


class _Messages:
    """Stands for the standard error while a verb runs: hides it, or copies it into a log."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO | None, log: _Log | None) -> None:
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        if self._stream is not None:
            self._stream.write(text)
        if self._log is not None:
            whole, _, self._line = f"{self._line}{text}".rpartition("\n")
            if whole:
                self._log.write_lines(whole)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def fileno(self) -> int:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else 2

    def isatty(self) -> bool:
        return False  # a bar would fill the log


class _Log:
    """A log file. Where it can be written no more, work goes on without it, and that is said."""

    def __init__(self, path: Path) -> None:
        self._path, self._stream = path, sys.stderr
        self._file: TextIO | None = path.open("a", encoding="utf-8")

    def write_lines(self, text: str) -> None:
        if self._file is None:
            return
        try:
            for line in text.splitlines():
                self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            self._file.flush()
        except OSError as error:
            self.close()
            self._stream.write(
                f"warning: Cannot write the log {self._path}: {error.strerror}. Nothing more is "
                "written to it; the work goes on.\n"
            )

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None


@contextlib.contextmanager
def _direct_messages(namespace: argparse.Namespace) -> Iterator[_Complain]:
    """Send progress where --quiet, --verbose and --log-file say; give what writes errors."""
    with contextlib.ExitStack() as stack:
        log = None
        if namespace.log_file is not None:
            log = stack.enter_context(contextlib.closing(_Log(namespace.log_file)))
        complain = _Complain(log)
        if namespace.quiet or log is not None:
            shown = None if namespace.quiet else sys.stderr
            stack.enter_context(contextlib.redirect_stderr(_Messages(shown, log)))
        if namespace.verbose:
            import logging

            os.environ["TRANSFORMERS_VERBOSITY"] = "info"
            logging.basicConfig(
                level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
            )
        yield complain


@contextlib.contextmanager
def _plain_warnings(complain: _Complain) -> Iterator[None]:
    """Show our own warnings as one line, and every other as Python does."""
    with warnings.catch_warnings():
        original = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, NirvanaWarning):
                complain(f"warning: {message}")
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
