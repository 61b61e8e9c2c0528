"""Recipes that repeat, nest or exceed: refused at load with their line, in a moment."""

from pathlib import Path

import pytest

from nirvana_deploy.cli import main
from nirvana_deploy.runs.recipe import load_recipe
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.errors import NirvanaError
from pruning.training.training_configs import BaselineConfig

_LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
_MERGES = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10))


def _load(text: str | bytes, folder: Path) -> object:
    path = folder / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\na0: &a0 [lol]\n" + _LAUGHS, r"x\.yaml:7: aliases make this more than 100000"),
        ("model: m\na0: &a0 {b: 1}\n" + _MERGES, r"x\.yaml:7: aliases make this more than 100000"),
        ("model: m\ndata: &d {dataset: *d}\n", r"x\.yaml:2: the alias \*d is inside what it"),
        ("model: m\ndata: &d\n  <<: *d\n", r"x\.yaml:3: the alias \*d is inside what it"),
        ("model: " + "[" * 5000, r"x\.yaml:1: nested deeper than 32 levels"),
        ("".join(" " * n + "a:\n" for n in range(400)), r"x\.yaml:32: nested deeper than 32"),
        ("model: m\nbaseline: {seed: " + "9" * 5000 + "}", r"x\.yaml:2: the number 9+\.\.\. does"),
        ('model: "\\UFFFFFFFF"', r"x\.yaml: this is not a YAML text file"),
        ('model: "\\ud800"', r"x\.yaml:1: text must be without NUL"),
        ('model: "\\0"', r"x\.yaml:1: text must be without NUL"),
        ("model: !!int m", r"x\.yaml:1: m is not of the tag int"),
        ("? [model]\n: m", r"x\.yaml:1: a key must be text"),
        ("model: m\n1: 2", r"x\.yaml:2: 1: unknown key"),
        (b"\xff\xfem\0", "this is not a YAML text file"),
        ("# \n" * 100_000, "has 300000 bytes, expected at most 262144"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "bytes",
)
def test_a_bomb_is_refused_at_its_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=message):
        _load(text, tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("baseline: {num_epochs: .inf}", "num_epochs must be a finite number .* got inf"),
        ("baseline: {num_epochs: .nan}", "num_epochs must be a finite number .* got nan"),
        ("baseline: {num_epochs: 1e300}", "num_epochs must be a finite number from 0 to 100000"),
        ("prune: {seed: -5}", r"seed must be a finite number from 0 to 4294967295, got -5"),
        ("prune: {seed: 100000000000000000000}", "does not fit in 64 bits"),
        ("prune: {scoring: {calibration: {seed: 4294967296}}}", "seed must be a finite number"),
        ("prune: {distillation: {hidden_weight: .inf}}", "hidden_weight must be a finite number"),
        ("profile: {rates_per_s: [.inf]}", "rates_per_s must be a finite number"),
        ("profile: {max_seconds: .nan}", "max_seconds must be a finite number"),
        ("build: {profiles: [{x: [[9999999999], [1], [1]]}]}", "profiles must be a finite number"),
        ("package: {max_queue_delay_us: 3000000000}", "max_queue_delay_us must be a finite number"),
        ("latency: {speedup: .inf}", "speedup must be a finite number"),
        ("latency: {at_most: 2ms, table: {batch: 3000000000}}", "batch must be a finite number"),
    ],
)
def test_a_number_out_of_its_range_is_refused_at_load(
    setting: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(NirvanaError, match=rf"x\.yaml:2: .*{message}"):
        _load(f"model: m\n{setting}\n", tmp_path)


def test_the_same_ranges_hold_on_the_command_line_and_in_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text("model: m\n")
    out = str(tmp_path / "out")
    for flag in ("--baseline.num_epochs=.inf", "--prune.seed=-5"):
        assert main(["deploy", str(tmp_path / "x.yaml"), flag, "--out", out]) != 0
        assert "must be a finite number" in capsys.readouterr().err
    assert not Path(out).exists()
    with pytest.raises(NirvanaError, match="num_epochs must be a finite number"):
        BaselineConfig(num_epochs=float("inf"))
    with pytest.raises(NirvanaError, match=r"seed must be a finite number .* of 16610 bits"):
        CalibrationConfig(seed=10**5000)
