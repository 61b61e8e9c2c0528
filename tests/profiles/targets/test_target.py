"""Every shipped file is read; figures are compared with ratios that chips have."""

import re
import tomllib
from pathlib import Path

import pytest

from profiles.targets.target import (
    TARGETS_FOLDER,
    UNSOURCED,
    detect_cpu,
    list_target_names,
    load_target,
    read_target,
)
from pruning.errors import NirvanaError

WHOLE = """
title = "A card"
kind = "gpu"
memory_gb = 8
[memory_bandwidth_gb_per_s]
value = 100
source = "https://example.org/card"
[tera_ops_per_s.fp16]
value = 10
source = "https://example.org/card"
note = "half"
"""
EXPECTED = {
    "t4", "a10", "a100-40", "a100-80", "l4", "l40s", "h100-sxm", "h100-pcie", "h200", "b200",
    "rtx-3090", "rtx-4090", "rtx-5090", "orin",
}  # fmt: skip


def test_the_targets_that_are_promised_are_there() -> None:
    assert set(list_target_names()) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_rates_are_dense_and_plausible(name: str) -> None:
    """A rate with sparsity in it would break the ratio to fp16, which is 2 for one byte."""
    target = load_target(name)
    assert target.kind == "gpu" and target.compute_capability is not None
    rates = {precision: figure.value for precision, figure in target.tera_ops_per_s.items()}
    for precision in {"fp8", "int8"} & set(rates):
        assert 1.9 < rates[precision] / rates["fp16"] < 4.1, precision
    if "bf16" in rates:
        assert rates["bf16"] == pytest.approx(rates["fp16"])
    assert rates["fp32"] < rates["fp16"]
    # Operations a byte at which compute takes over: of the order of 100 on every such card.
    assert 50 < 1000 * rates["fp16"] / target.memory_bandwidth_gb_per_s.value < 450


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_figure_is_the_vendors_or_marked_as_unsourced(name: str) -> None:
    vendor = re.compile(r"https://(developer|docs|www|resources|images)\.nvidia\.com/\S+")
    document = tomllib.loads((TARGETS_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    figures = [value for value in document.values() if isinstance(value, dict)]
    rates = document["tera_ops_per_s"]
    figures = [figure for figure in figures if figure is not rates] + list(rates.values())
    for figure in figures:
        assert figure["source"] == UNSOURCED or vendor.fullmatch(figure["source"]), figure


def test_unsourced_figures_are_listed_by_precision(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text(WHOLE.replace('source = "https://example.org/card"', 'source = "unsourced"', 1))
    target = read_target(path)
    assert target.list_unsourced("fp16") == ("memory_bandwidth_gb_per_s",)
    assert load_target("l4").list_unsourced("int8") == (
        "memory_bandwidth_gb_per_s",
        "tera_ops_per_s.int8",
    )


def test_a_file_is_read_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text(WHOLE)
    target = read_target(path)
    assert (target.name, target.memory_bandwidth_gb_per_s.value) == ("card", 100.0)
    assert target.rate("fp16").note == "half" and target.alignment_bytes is None
    with pytest.raises(NirvanaError, match="A card has no rate for 'int8'; it has fp16"):
        target.rate("int8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "https://example.org/card"\n[t', "[t", "memory_bandwidth.* needs a value and a"),
        ("value = 100", "value = -1", "must be a positive number, got -1"),
        ("value = 10\n", 'value = "10"\n', "fp16 must be a positive number, got '10'"),
        ("[tera_ops_per_s.fp16]", "[tera_ops_per_s.fp17]", "has the precisions fp17; expected"),
        ('title = "A card"', "", "lacks title"),
        ("memory_gb = 8", "memory_gb = =", "is not TOML"),
    ],
    ids=["no source", "negative", "text", "precision", "no title", "not toml"],
)
def test_a_bad_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in WHOLE
    path = tmp_path / "card.toml"
    path.write_text(WHOLE.replace(old, new, 1))
    with pytest.raises(NirvanaError, match=message):
        read_target(path)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(NirvanaError, match=r"no target 'H100-SXM5'.* Did you mean h100-sxm\?"):
        load_target("H100-SXM5")


def test_this_processor_is_measured_once() -> None:
    cpu = load_target("cpu")
    assert cpu is detect_cpu() and cpu.kind == "cpu" and cpu.compute_capability is None
    assert "measured here" in cpu.rate("fp32").source
    # A 2010 core has 8 GFLOP/s; 10 TFLOP/s or 10 TB/s is no CPU.
    assert 0.005 < cpu.rate("fp32").value < 10
    assert 1 < cpu.memory_bandwidth_gb_per_s.value < 10_000
