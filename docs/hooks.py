"""Pages of the documentation site that are made from the code; mkdocs calls `on_files`.

The command line comes from the argparse parser, the recipe's keys from the config classes, and the
list of the Python API from the package's public names. They are never written to disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import nirvana_deploy
from nirvana_deploy import cli
from nirvana_deploy.config_reader import (
    config_types,
    describe_fields,
    describe_type,
    find_default,
    join_key,
    member_name,
    name_members,
    to_plain,
)
from nirvana_deploy.runs.recipe import Recipe
from nirvana_deploy.verbs.verb import VERB_NAMES, load_verb

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/cli.md": write_cli_page(),
        "reference/recipe.md": write_recipe_page(),
        "reference/python.md": write_python_page(),
        "contributing.md": _read_root("CONTRIBUTING.md"),
        "changelog.md": _read_root("CHANGELOG.md"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _read_root(name: str) -> str:
    """Return a page from beside docs/, its links as seen from inside docs/."""
    text = (ROOT / name).read_text().replace("](docs/", "](")
    return text.replace("](CHANGELOG.md", "](changelog.md")


def write_cli_page() -> str:
    """Return the reference of the command line."""
    top = cli._make_top_parser()
    lines = ["# Command line", "", "```text", top.format_help().rstrip(), "```"]
    for name in VERB_NAMES:
        child = cli._make_parser(load_verb(name), helps_all=True)
        lines += [f"\n## nirvana {name}", child.description or "", "", "```text"]
        lines += [child.format_usage().strip(), "```"]
        for group in child._action_groups:
            actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
            if not actions or [type(a) for a in actions] == [argparse._HelpAction]:
                continue
            lines += [f"\n**{group.title}** {_escape(group.description or '')}\n"]
            lines += ["| argument | meaning |", "|---|---|"]
            lines += [f"| {_name_action(a)} | {_escape(_expand(child, a))} |" for a in actions]
    return "\n".join(lines) + "\n"


def _name_action(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"`{value or action.dest}`"
    flags = sorted(action.option_strings, key=len)
    return f"`{', '.join(flags)}{f' {value}' if value and action.nargs != 0 else ''}`".replace(
        "|", "\\|"
    )


def _expand(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def write_recipe_page() -> str:
    """Return the keys of a recipe by section."""
    lines = [
        "# Recipe keys",
        "",
        "A recipe is a YAML file. Every key is also a flag of `nirvana deploy`, with dots between "
        "the levels (`--prune.budget 0.6`), and flags win over the file. An unknown key is refused "
        "with the nearest valid one.",
    ]
    hints = get_type_hints(Recipe)
    top = [f for f in dataclasses.fields(Recipe) if not config_types(hints[f.name])]
    lines += ["\n## The recipe itself", *_HEAD]
    told = describe_fields(Recipe)
    lines += [_write_row(f.name, told, hints[f.name], find_default(f)) for f in top]
    for field in dataclasses.fields(Recipe):
        for kind in config_types(hints[field.name]):
            several = len(config_types(hints[field.name])) > 1
            title = f"{field.name}: {kind.__name__}" if several else field.name
            about = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")[0]
            lines += [f"\n## {title}", about.rstrip(), *_HEAD]
            lines += list(_write_rows(kind, field.name))
    return "\n".join(lines) + "\n"


_HEAD = ("", "| key | type | default | meaning |", "|---|---|---|---|")


def _write_rows(kind: type[Any], prefix: str) -> Iterator[str]:
    hints, told = get_type_hints(kind), describe_fields(kind)
    for field in dataclasses.fields(kind):
        key, hint, default = join_key(prefix, field.name), hints[field.name], find_default(field)
        members = config_types(hint)
        if not members:
            yield _write_row(key, told, hint, default)
            continue
        named = name_members(hint)
        if len(named) > 1:
            kinds = ", ".join(f"`{name}`" for name in named)
            chosen = "none" if default is None else f"`{member_name(type(default))}`"
            text = _escape(told.get(field.name, "Which kind."))
            yield f"| `{key}` | {kinds} | {chosen} | {text} |"
        for member in members:
            yield from _write_rows(member, key)


def _write_row(key: str, told: Mapping[str, str], hint: Any, default: Any) -> str:
    shown = "required" if default is dataclasses.MISSING else f"`{to_plain(default)}`"
    text = _escape(told.get(key.rpartition(".")[2], ""))
    return f"| `{key}` | {_escape(describe_type(hint))} | {_escape(shown)} | {text} |"


def write_python_page() -> str:
    """Return a page on which mkdocstrings describes every public name."""
    names = sorted(name for name in nirvana_deploy.__all__ if not name.startswith("_"))
    lines = [
        "# Python API",
        "",
        "Everything here is imported from `nirvana_deploy`; other modules are internal.",
    ]
    groups = {
        "Functions": [n for n in names if n[0].islower()],
        "Settings": [n for n in names if n.endswith("Config") or n == "Recipe"],
    }
    taken = {name for group in groups.values() for name in group}
    groups["Other classes"] = [name for name in names if name not in taken]
    for title, group in groups.items():
        lines.append(f"\n## {title}")
        lines += [f"\n::: nirvana_deploy.{name}" for name in group]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Return text that may stand in a table's cell."""
    return re.sub(r"([|<*])", r"\\\1", " ".join(text.split()))
