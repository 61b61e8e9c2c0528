"""What differs between an engine and this machine is said before the engine is loaded."""

import dataclasses
from pathlib import Path

import pytest

from exporters.engines.check_loadable import check_loadable
from exporters.engines.engine_manifest import read_engine_manifest
from exporters.engines.local_gpu import find_flavour_cuda
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_folders import L4, write_engine

T4 = dataclasses.replace(L4, name="Tesla T4", compute_capability="7.5")
RTX_4090 = dataclasses.replace(L4, name="NVIDIA GeForce RTX 4090")
BLACKWELL = dataclasses.replace(L4, name="NVIDIA RTX 5090", compute_capability="12.0")


def check(folder: Path, changes: dict[str, object], device=L4, **here: str) -> None:
    write_engine(folder, **changes)
    here = {"flavour": "tensorrt_rtx", "version": "1.7.1.116", **here}
    check_loadable(read_engine_manifest(folder), folder, device=device, **here)


@pytest.mark.parametrize(
    ("changes", "device", "here"),
    [
        ({}, L4, {}),
        ({}, RTX_4090, {}),
        ({"compute_capabilities": ("sm86", "sm120")}, BLACKWELL, {}),
        ({"version_compatible": True}, L4, {"version": "1.8.0.2"}),
        ({"cuda": "13"}, L4, {}),
        ({"cuda": "13"}, dataclasses.replace(L4, driver_cuda=None), {}),
        ({"compute_capabilities": (), "built_on": L4}, L4, {}),
        (
            {"compute_capabilities": (), "built_on": L4, "hardware_compatible": "ampere_plus"},
            BLACKWELL,
            {},
        ),
        (
            {
                "compute_capabilities": (),
                "built_on": L4,
                "hardware_compatible": "same_compute_capability",
            },
            RTX_4090,
            {},
        ),
    ],
)
def test_what_fits_is_let_through(tmp_path: Path, changes, device, here) -> None:
    check(tmp_path, changes, device, **here)


@pytest.mark.parametrize(
    ("changes", "device", "here", "message"),
    [
        ({}, L4, {"flavour": "tensorrt"}, "its flavor is tensorrt_rtx, this is tensorrt"),
        ({}, L4, {"version": "1.8.0"}, r"built by tensorrt_rtx 1\.7\.1\.116, this is 1\.8\.0"),
        ({"version_compatible": True}, L4, {"version": "1.6.9"}, r"this is 1\.6\.9"),
        ({"version_compatible": True}, L4, {"version": "2.0"}, r"this is 2\.0"),
        ({}, T4, {}, r"is for compute capability 8\.9, this GPU is Tesla T4 with .* 7\.5"),
        ({"hardware_compatible": "ampere_plus"}, T4, {}, r"capability 8\.0 and newer, .*T4"),
        (
            {"compute_capabilities": (), "built_on": L4},
            RTX_4090,
            {},
            "was built on NVIDIA L4, this GPU is NVIDIA GeForce RTX 4090",
        ),
        (
            {"cuda": "13"},
            dataclasses.replace(L4, driver="550.54", driver_cuda="12.4"),
            {},
            r"needs a driver for CUDA 13, driver 550\.54 ends at CUDA 12\.4",
        ),
        ({}, T4, {"version": "1.8.0"}, r"1\.8\.0; it is for .*Build it again here"),
        (
            {},
            None,
            {},
            r"tensorrt_rtx 1\.7\.1\.116 engine for compute capability 8\.9: to run it",
        ),
    ],
)
def test_what_differs_is_said(tmp_path: Path, changes, device, here, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        check(tmp_path, changes, device, **here)


def test_the_cuda_of_a_flavour_is_in_the_name_of_its_wheel(monkeypatch) -> None:
    names = {"tensorrt_rtx": ["tensorrt-rtx-cu13"], "tensorrt": ["tensorrt"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: names)
    needs = {"tensorrt": ["tensorrt_cu12==10.13.0"]}.get
    monkeypatch.setattr("importlib.metadata.requires", needs)
    assert find_flavour_cuda("tensorrt_rtx") == "13"
    assert find_flavour_cuda("tensorrt") == "12"
    assert find_flavour_cuda("tensorrt_llm") is None
