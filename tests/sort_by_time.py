"""Sort the suite into a fast and a slow tier by measured time.

    make test-all PYTEST_ARGS=--junitxml=times.xml
    python tests/sort_by_time.py times.xml

Each test that took longer than the limit goes into `tests/slow.txt`, one node id per line, and
`tests/conftest.py` marks it `slow`. A line may also name a whole file, whose tests share something
that takes long to make. Tests that are named in a "# keep:" line of that file stay in
the fast tier however long they take: one model of each mechanism. The times of a busy machine are
scaled by `--scale`.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SLOW_TESTS = Path(__file__).with_name("slow.txt")
_KEEP = "# keep: "


def read_slow_tests(path: Path = SLOW_TESTS) -> frozenset[str]:
    """Return the node ids and files of the slow tests."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def read_kept_tests(path: Path = SLOW_TESTS) -> frozenset[str]:
    """Return the node ids of the tests that stay in the fast tier."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line.removeprefix(_KEEP) for line in lines if line.startswith(_KEEP))


def is_slow(test: str, slow: frozenset[str], kept: frozenset[str]) -> bool:
    """Tell whether a test, or its whole file, is in the slow tier."""
    return test not in kept and (test in slow or test.partition("::")[0] in slow)


def read_times(results: Path) -> dict[str, float]:
    """Return the seconds of each test by its node id, of a file that pytest's --junitxml wrote."""
    return {
        f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}": float(
            case.attrib["time"]
        )
        for case in ElementTree.parse(results).iter("testcase")
    }


def sort_by_time(
    times: dict[str, float], limit_s: float, before: frozenset[str], kept: frozenset[str]
) -> list[str]:
    """Return the slow tests, sorted; one that was not run stays where it was."""
    files = {line for line in before if "::" not in line}
    slow = {test for test, seconds in times.items() if seconds > limit_s}
    tests = slow | (before - times.keys() - files)
    return sorted(files | {test for test in tests - kept if test.partition("::")[0] not in files})


def main() -> None:
    """Write `tests/slow.txt` anew."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="junit files; the longest counts")
    parser.add_argument("--limit", type=float, default=1.3, help="seconds, idle")
    parser.add_argument("--scale", type=float, default=1.0, help="how much slower it ran")
    args = parser.parse_args()
    times: dict[str, float] = {}
    for results in args.results:
        for test, seconds in read_times(results).items():
            times[test] = max(times.get(test, 0.0), seconds / args.scale)
    lines = SLOW_TESTS.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("#")]
    slow = sort_by_time(times, args.limit, read_slow_tests(), read_kept_tests())
    SLOW_TESTS.write_text("\n".join([*head, *slow]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
