"""Finds the installed TensorRT flavor, and says what it can build for.

The flavors share one Python API. What one of them lacks is found by attribute, not by version.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from exporters.engines.engine_config import EngineConfig
from pruning.errors import MissingExtraError, NirvanaError

# In the order in which `auto` tries them: TensorRT-RTX builds on a machine with no GPU.
_EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}


def import_flavour(flavour: str) -> ModuleType:
    """Import and return the module `tensorrt_rtx` or `tensorrt`; `auto` takes the first there is.

    Raises MissingExtraError when it is not installed, NirvanaError when its libraries do not load.
    """
    names = list(_EXTRAS) if flavour == "auto" else [flavour]
    for name in names:
        module = _import_if_installed(name)
        if module is not None:
            return module
    if flavour == "auto":
        raise MissingExtraError("A TensorRT flavor (tensorrt_rtx or tensorrt)", "rtx")
    raise MissingExtraError(flavour, _EXTRAS[flavour])


def list_capabilities(trt: Any) -> tuple[str, ...]:
    """Return the compute capabilities that this flavor can build for, such as `8.9`.

    Empty for a flavor that builds for the GPU in this machine only.
    """
    if not hasattr(trt, "ComputeCapability"):
        return ()
    names = (name.removeprefix("SM") for name in trt.ComputeCapability.__members__)
    numbers = sorted(int(name) for name in names if name.isdigit())
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def choose_capabilities(trt: Any, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the compute capabilities to build for.

    None for a flavor that builds for this machine's GPU, when those of the config are its default.

    Raises:
        NirvanaError: the flavor cannot build for just these.
    """
    if asked == EngineConfig().compute_capabilities and not list_capabilities(trt):
        return ()
    check_capabilities(trt, asked)
    return asked


def check_capabilities(trt: Any, asked: tuple[str, ...]) -> None:
    """Raise NirvanaError unless this flavor can build for just the capabilities `asked`."""
    name = trt.__name__
    valid = list_capabilities(trt)
    if not valid and asked:
        raise NirvanaError(
            f"{name} {trt.__version__} builds for the GPU in this machine and has no "
            f"compute_capabilities, got {', '.join(asked)}. Leave the list empty, or use the "
            "flavour tensorrt_rtx."
        )
    if valid and not asked:
        raise NirvanaError(f"{name} needs at least one of compute_capabilities {', '.join(valid)}.")
    unknown = [capability for capability in asked if capability not in valid]
    if unknown:
        raise NirvanaError(
            f"{name} {trt.__version__} cannot build for compute capability {', '.join(unknown)}. "
            f"It can for {', '.join(valid)}."
        )


def _import_if_installed(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise NirvanaError(f"{name} is installed, but its part {error.name} is missing.") from None
    except (ImportError, OSError) as error:
        raise NirvanaError(f"{name} is installed, but does not load: {error}") from error
