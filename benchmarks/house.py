"""Counts what makes a house hard to live in: modules, lines, import circles, names used twice.

    python benchmarks/house.py              # count, and keep the time of `make test` as it is
    python benchmarks/house.py --tests      # also run `make test`, on a machine without other work

What travels with a package or a checkpoint, and runs without this one, is counted like the rest.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

from figures import describe_hardware, make_bar  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "house.json"
PACKAGES = ("pruning", "exporters", "profiles", "nirvana_deploy")
# Triton asks for this name in each of its Python models.
SAME_BY_RULE = {"TritonPythonModel"}


def read_modules(root: Path = ROOT) -> dict[str, str]:
    """Return the text of each module of the product, by its dotted name."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def list_imports(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which modules of the product each imports, also within functions.

    What is imported for the type checker alone is left out: it is not there when the code runs.
    """
    found: dict[str, set[str]] = {}
    for name, text in texts.items():
        found[name] = set()
        for node in _walk_without_types(ast.parse(text)):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{each}" for each in names]
                names = [each if each in texts else str(node.module) for each in names]
            found[name].update(each for each in names if each in texts and each != name)
    return found


def _walk_without_types(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from _walk_without_types(child)


def find_circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, over however many steps."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in imports[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reached[start] = seen
    circles = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in imports
        if name in reached[name]
    }
    return [list(circle) for circle in sorted(circles)]


def find_same_names(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the class names that more than one module declares, with these modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name not in SAME_BY_RULE:
                found[node.name].add(module)
    return {name: sorted(modules) for name, modules in found.items() if len(modules) > 1}


def list_containing(texts: Mapping[str, str], pattern: str) -> list[str]:
    """Return the modules whose text has the pattern."""
    return [name for name, text in texts.items() if re.search(pattern, text)]


def time_tests() -> float:
    """Run `make test` and return its minutes. Installing is not counted.

    Raises:
        SystemExit: a test failed.
    """
    subprocess.run(["make", "environments"], cwd=ROOT, check=True)
    started = time.monotonic()
    if subprocess.run(["make", "test"], cwd=ROOT, check=False).returncode:
        sys.exit("make test failed: its time says nothing.")
    return round((time.monotonic() - started) / 60, 1)


def count(texts: Mapping[str, str], minutes: float | None) -> dict[str, Any]:
    """Count everything, and compare the figures with their bars."""
    circles, same = find_circles(list_imports(texts)), find_same_names(texts)
    cache_names = list_containing(texts, "past_key_values")
    sessions = list_containing(texts, r"InferenceSession\(")
    lines = sum(len(text.splitlines()) for text in texts.values())
    untyped = sum(len(re.findall(r"\bAny\b", text)) for text in texts.values())
    bars = [
        make_bar("modules", len(texts), 400, "at_most"),
        make_bar("product lines", lines, 50_000, "at_most"),
        make_bar("import circles", len(circles), 0, "at_most"),
        make_bar("class names used twice", len(same), 0, "at_most"),
        make_bar("files that spell past_key_values", len(cache_names), 3, "at_most"),
        make_bar("files that create an InferenceSession", len(sessions), 4, "at_most"),
        make_bar("uses of Any", untyped, 400, "at_most"),
    ]
    if minutes is not None:
        bars.append(make_bar("make test, minutes", minutes, 8, "at_most"))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {"nirvana-deploy": version("nirvana-deploy")},
        "circles": circles,
        "class_names_used_twice": same,
        "spell_past_key_values": cache_names,
        "create_an_InferenceSession": sessions,
        "make_test_minutes": minutes,
        "bars": bars,
    }


def main() -> None:
    """Count, print the figures and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", action="store_true", help="run make test and keep its time")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    minutes = json.loads(args.out.read_text())["make_test_minutes"] if args.out.is_file() else None
    result = count(read_modules(), time_tests() if args.tests else minutes)
    for bar in result["bars"]:
        print(
            f"{bar['name']}: {bar['value']} ({bar['direction'].replace('_', ' ')} {bar['target']})"
        )
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
