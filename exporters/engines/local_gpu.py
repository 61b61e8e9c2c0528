"""The GPU of this machine and its driver, as far as an engine depends on them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGpu:
    """A GPU that an engine was built on, or shall run on.

    Attributes:
        compute_capability: such as `8.9`.
        driver: its version; None where NVML does not tell.
        driver_cuda: the newest CUDA that the driver runs, such as `13.0`; None likewise.
    """

    name: str
    compute_capability: str
    driver: str | None = None
    driver_cuda: str | None = None


def find_gpu() -> LocalGpu | None:
    """Return this process's first GPU; None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    driver, cuda = _read_driver()
    return LocalGpu(
        name=torch.cuda.get_device_name(0),
        compute_capability=f"{major}.{minor}",
        driver=driver,
        driver_cuda=cuda,
    )


def find_flavour_cuda(flavour: str) -> str | None:
    """Return the CUDA major version that the installed flavor is built for, by its package's name.

    The wheels are called after it: `tensorrt-rtx-cu13`, `tensorrt-cu12`.
    """
    names = metadata.packages_distributions().get(flavour, [])
    wheels = [wheel for name in names for wheel in (name, *_list_requirements(name))]
    prefix = re.escape(flavour).replace("_", "[-_]")
    for wheel in wheels:
        if found := re.match(rf"{prefix}[-_]cu(\d+)", wheel, re.IGNORECASE):
            return found[1]
    return None


def _list_requirements(distribution: str) -> list[str]:
    return metadata.requires(distribution) or []


def _read_driver() -> tuple[str | None, str | None]:
    """Return the driver's version, and the newest CUDA that it runs."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            version = str(pynvml.nvmlSystemGetDriverVersion())
            cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
            return version, f"{cuda // 1000}.{cuda % 1000 // 10}"
        finally:
            pynvml.nvmlShutdown()
    return None, None
