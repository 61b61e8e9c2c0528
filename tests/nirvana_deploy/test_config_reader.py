"""Strict reading of plain data into dataclasses, and the flags made of the same dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from nirvana_deploy.config_reader import Origin, read_config, read_union, to_plain
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags, normalize_flags
from pruning.errors import NirvanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascent:
    """Climb.

    Attributes:
        rate: step
    """

    rate: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """Pay."""

    alpha: float
    beta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From here to there."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise NirvanaError(f"a range needs low <= high, got {self.low} and {self.high}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Set all kinds of things.

    Attributes:
        budget: share to keep,
            100% is all
        batch: rows
    """

    budget: float = 0.5
    cost: Literal["macs", "parameters"] = "macs"
    objective: Ascent | Penalty = field(default_factory=Ascent)
    batch: Range = Range(low=1, high=32)
    max_rows: int | None = None
    label: str | None = None
    text: str = "none"
    quick: bool = False
    cases: tuple[tuple[int, int], ...] = ((1, 128),)
    sizes: tuple[int, ...] = (1, 8)
    targets: tuple[str, ...] = ("8.9",)
    folder: Path | None = None
    extra: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise NirvanaError(f"budget must be in (0, 1], got {self.budget}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Hold a name that is required, and the settings.

    Attributes:
        model: folder or id
    """

    model: str
    prune: Settings = field(default_factory=Settings)


def read(**prune: Any) -> Settings:
    return read_config(Whole, {"model": "m", "prune": prune}).prune


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Settings()),
        ({"budget": 1}, Settings(budget=1.0)),
        ({"objective": {}}, Settings(objective=Ascent())),
        ({"objective": {"rate": 2}}, Settings(objective=Ascent(rate=2.0))),
        (
            {"objective": {"alpha": 1, "beta": 0.5}},
            Settings(objective=Penalty(alpha=1.0, beta=0.5)),
        ),
        ({"batch": {"high": 64}}, Settings(batch=Range(low=1, high=64))),
        ({"max_rows": 3}, Settings(max_rows=3)),
        ({"max_rows": None}, Settings()),
        ({"cases": [[1, 2], [3, 4]]}, Settings(cases=((1, 2), (3, 4)))),
        ({"targets": []}, Settings(targets=())),
        ({"folder": "a/b"}, Settings(folder=Path("a/b"))),
        ({"extra": {"x": 1}}, Settings(extra={"x": 1.0})),
    ],
    ids=str,
)
def test_values_are_read(given: dict[str, Any], expected: Settings) -> None:
    assert read(**given) == expected


def test_int_becomes_float_where_a_number_is_expected() -> None:
    assert type(read(budget=1).budget) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bugdet": 1}, r"^prune\.bugdet: unknown key; did you mean 'budget'\?"),
        ({"zzz": 1}, r"^prune\.zzz: unknown key; known: budget, cost, "),
        ({1: 1}, r"^prune\.1: unknown key"),
        ({"budget": "half"}, r"^prune\.budget: expected a number, came text: 'half'\.$"),
        ({"budget": True}, r"^prune\.budget: expected a number, came true or false: True"),
        ({"budget": None}, r"^prune\.budget: expected a number, came null"),
        ({"budget": 1.5}, r"^prune\.budget: budget must be in \(0, 1\], got 1\.5"),
        ({"max_rows": 1.5}, r"^prune\.max_rows: expected a whole number or null, came a number"),
        ({"cost": "mac"}, r"^prune\.cost: expected one of 'macs', 'parameters'.*mean 'macs'\?"),
        ({"quick": "no"}, r"^prune\.quick: expected true or false, came text: 'no'"),
        ({"text": 3}, r"^prune\.text: expected text, came a whole number: 3; put it in quotes"),
        ({"targets": [8.9]}, r"^prune\.targets: expected text, came a number: 8\.9; put it in q"),
        ({"sizes": 8}, r"^prune\.sizes: expected a list of a whole number, came a whole number"),
        ({"cases": [[1]]}, r"^prune\.cases: expected a list of 2: .*, came the list \[1\]"),
        ({"objective": 3}, r"^prune\.objective: expected keys and values"),
        ({"objective": {"alpha": 1}}, r"^prune\.objective\.beta: required, but not given"),
        ({"objective": {"alhpa": 1, "beta": 1}}, r"^prune\.objective\.alhpa: .*mean 'alpha'\?"),
        (
            {"objective": {"alpha": 1, "rate": 1}},
            r"^prune\.objective: the keys alpha, rate do not go together; "
            r"expected \{rate\} or \{alpha, beta\}",
        ),
        ({"batch": {"low": 40}}, r"^prune\.batch: a range needs low <= high, got 40 and 32"),
        ({"budget": {"a": 1}}, r"^prune\.budget: expected a number, came keys and values"),
    ],
    ids=str,
)
def test_wrong_values_name_the_dotted_key(given: dict[Any, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        read_config(Whole, {"model": "m", "prune": given})


def test_missing_required_key_says_what_it_is() -> None:
    with pytest.raises(NirvanaError, match=r"^model: required, but not given \(folder or id\)"):
        read_config(Whole, {})


def test_message_points_at_the_line() -> None:
    origin = Origin(path=Path("r.yaml"), lines={"prune.budget": 7})
    with pytest.raises(NirvanaError, match=r"^r\.yaml:7: prune\.budget: budget must be in"):
        read_config(Whole, {"model": "m", "prune": {"budget": 2}}, origin=origin)


def test_plain_data_reads_back_to_the_same_config() -> None:
    config = Whole(
        model="m",
        prune=Settings(
            objective=Penalty(alpha=1.0, beta=2.0),
            cases=((1, 2), (3, 4)),
            folder=Path("x"),
            extra={"a": 1.5},
        ),
    )
    assert read_config(Whole, to_plain(config)) == config


def parse_flags(*arguments: str) -> Whole:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Whole)
    words = normalize_flags(parser, ["--model", "m", *arguments])
    return read_config(Whole, collect_flags(parser.parse_args(words)))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--prune.budget", "0.25"], Settings(budget=0.25)),
        (["--prune.budget", "1e-1"], Settings(budget=0.1)),
        (["--prune.cost", "parameters"], Settings(cost="parameters")),
        (["--prune.objective.rate", "3"], Settings(objective=Ascent(rate=3.0))),
        (
            ["--prune.objective.alpha", "1", "--prune.objective.beta=2"],
            Settings(objective=Penalty(alpha=1.0, beta=2.0)),
        ),
        (["--prune.batch.high", "64"], Settings(batch=Range(low=1, high=64))),
        (["--prune.max_rows", "none"], Settings()),
        (["--prune.max-rows", "9"], Settings(max_rows=9)),
        (["--prune.max_rows=9"], Settings(max_rows=9)),
        (["--prune.label", "9"], Settings(label="9")),
        (["--prune.label", "none"], Settings()),
        (["--prune.text", "null"], Settings(text="null")),
        (["--prune.quick", "true"], Settings(quick=True)),
        (["--prune.quick=true"], Settings(quick=True)),
        (["--prune.quick", "False"], Settings(quick=False)),
        (["--prune.quick"], Settings(quick=True)),
        (["--prune.quick", "--prune.budget", "0.25"], Settings(quick=True, budget=0.25)),
        (["--prune.cases", "[[1,2],[3,4]]"], Settings(cases=((1, 2), (3, 4)))),
        (["--prune.sizes", "4,5"], Settings(sizes=(4, 5))),
        (["--prune.targets", "8.9,12.0"], Settings(targets=("8.9", "12.0"))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_give_what_yaml_gives(flags: list[str], expected: Settings) -> None:
    assert parse_flags(*flags).prune == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prune.budget", "x"], "expected a number, came text: 'x'"),
        (["--prune.cost", "mac"], "did you mean 'macs'?"),
        (["--prune.sizes", "[1"], "'[1' is not a valid YAML value"),
        (["--prune.quick", "yes"], "expected true or false"),
    ],
)
def test_wrong_flag_values_are_usage_errors(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_flags(*flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_says_what_a_flag_is_and_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Whole)
    text = " ".join(parser.format_help().split())
    assert "--model TEXT folder or id (required)" in text
    assert "--prune.budget X share to keep, 100% is all (default: 0.5)" in text
    assert "--prune.cost {macs,parameters}" in text
    assert "--prune.batch.high N rows: a whole number (default: 32)" in text
    assert "--prune.objective.beta X a number (required)" in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Nothing to set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithRate:
    rate: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    kind: WithRate | Plain = field(default_factory=WithRate)
    other: Plain | WithRate | None = None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"kind": "plain"}, Kinds(kind=Plain())),
        ({"kind": "with_rate", "other": "plain"}, Kinds(other=Plain())),
        (
            {"kind": {"rate": 2}, "other": {"rate": 3}},
            Kinds(kind=WithRate(rate=2.0), other=WithRate(rate=3.0)),
        ),
    ],
)
def test_a_member_that_needs_no_key_goes_by_its_name(data: dict[str, Any], expected: Kinds) -> None:
    assert read_config(Kinds, data) == expected
    assert read_config(Kinds, to_plain(expected)) == expected


def test_an_unknown_name_of_a_member_has_its_nearest() -> None:
    message = r"^kind: expected keys and values or a name, came 'plan'; did you mean 'plain'"
    with pytest.raises(NirvanaError, match=message):
        read_config(Kinds, {"kind": "plan"})


def test_the_keys_choose_between_configs() -> None:
    found = read_union((WithRate, Kinds), {"other": "plain"}, name="thing")
    assert found == Kinds(other=Plain())
    with pytest.raises(NirvanaError, match=r"^thing: the keys other, rate do not go together"):
        read_union((WithRate, Kinds), {"other": "plain", "rate": 1}, name="thing")


def test_a_kind_is_a_flag_as_well() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Kinds)
    found = collect_flags(parser.parse_args(["--kind", "plain", "--other.rate", "2"]))
    assert found == {"kind": "plain", "other": {"rate": 2.0}}
    for flags in (["--kind", "plain", "--kind.rate", "2"], ["--kind.rate", "2", "--kind", "plain"]):
        with pytest.raises(NirvanaError, match=r"--kind and --kind\.rate do not go together"):
            collect_flags(parser.parse_args(flags))
