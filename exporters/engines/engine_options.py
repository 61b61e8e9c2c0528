"""Puts the options of a config into a builder's settings, and refuses what a flavor lacks.

What is missing is found by attribute. Some flavors have the attribute and do nothing with it: they
say so in a warning, which is an error here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from exporters.engines.engine_config import EngineConfig
from exporters.engines.engine_profiles import CORNERS, Profile
from exporters.engines.engine_progress import BuildLog
from exporters.engines.local_gpu import LocalGpu
from pruning.errors import NirvanaError
from pruning.write_aside import write_aside

_DOES_NOTHING = re.compile(r"unsupported|not supported|no-ops?\b|ignored", re.IGNORECASE)


def make_settings(
    trt: ModuleType, builder: Any, log: BuildLog, config: EngineConfig, precision: str
) -> Any:
    """Return a builder's settings with all options of the config but its profiles.

    `precision` is that of the graph that is built.

    Raises:
        NirvanaError: the flavor lacks an option, by its name.
    """
    settings = builder.create_builder_config()
    # The layer table, from which the engine is audited, is printed at this verbosity only.
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        # On by default, and then "fp32" products have the 10-bit mantissa of fp16.
        settings.clear_flag(trt.BuilderFlag.TF32)
    if config.workspace_mib is not None:
        limit_bytes = config.workspace_mib * 2**20
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit_bytes)
    if config.compute_capabilities:
        settings.num_compute_capabilities = len(config.compute_capabilities)
    for index, capability in enumerate(config.compute_capabilities):
        target = trt.ComputeCapability.__members__["SM" + capability.replace(".", "")]
        settings.set_compute_capability(target, index)
    _set_level(trt, settings, log, config)
    _set_compatibility(trt, settings, log, config)
    return settings


def add_profiles(builder: Any, settings: Any, profiles: Iterable[Profile]) -> None:
    """Give the settings one optimization profile after the other, in place."""
    for number, profile in enumerate(profiles):
        shapes = builder.create_optimization_profile()
        for name, shape in profile.items():
            try:
                shapes.set_shape(name, *(shape[corner] for corner in CORNERS))
            except (ValueError, TypeError) as error:
                raise NirvanaError(f"profile {number}: input {name} {shape}: {error}") from error
        if settings.add_optimization_profile(shapes) < 0:
            raise NirvanaError(
                f"the builder refuses profile {number}: "
                + "; ".join(f"{name} {shape}" for name, shape in profile.items())
            )


def load_timing_cache(
    trt: ModuleType, settings: Any, log: BuildLog, folder: str, device: LocalGpu | None
) -> Path:
    """Give the settings the timings of this flavor, version and device; return their file.

    Raises:
        NirvanaError: the flavor times no kernels at build time, or the file is another's.
    """
    path = Path(folder) / _name_cache(trt, device)
    if not hasattr(settings, "create_timing_cache"):
        raise _refuse(trt, "timing_cache")
    with _refuse_what_does_nothing(trt, log, "timing_cache"):
        cache = settings.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        taken = cache is not None and settings.set_timing_cache(cache, False)
    if not taken:
        raise NirvanaError(
            f"{path} is not a timing cache that {trt.__name__} {trt.__version__} takes on this "
            "device. Delete it; the next build writes a new one."
        )
    return path


def save_timing_cache(settings: Any, path: Path) -> None:
    """Keep the timings of a build, those that were loaded included."""
    data = bytes(settings.get_timing_cache().serialize())
    with write_aside(path) as aside:
        aside.write_bytes(data)


def _set_level(trt: ModuleType, settings: object, log: BuildLog, config: EngineConfig) -> None:
    if config.optimisation_level is None:
        return
    if not hasattr(settings, "builder_optimization_level"):
        raise _refuse(trt, "optimisation_level")
    with _refuse_what_does_nothing(trt, log, "optimisation_level"):
        settings.builder_optimization_level = config.optimisation_level


def _set_compatibility(trt: ModuleType, settings: Any, log: BuildLog, config: EngineConfig) -> None:
    flags = {
        "version_compatible": "VERSION_COMPATIBLE",
        "weight_streaming": "WEIGHT_STREAMING",
        "refittable": "REFIT",
    }
    for option, flag in flags.items():
        if not getattr(config, option):
            continue
        if not hasattr(trt.BuilderFlag, flag):
            raise _refuse(trt, option)
        with _refuse_what_does_nothing(trt, log, option):
            settings.set_flag(getattr(trt.BuilderFlag, flag))
    if config.hardware_compatible == "none":
        return
    levels = getattr(trt, "HardwareCompatibilityLevel", None)
    level = getattr(levels, config.hardware_compatible.upper(), None)
    if level is None or not hasattr(settings, "hardware_compatibility_level"):
        raise _refuse(trt, f"hardware_compatible {config.hardware_compatible}")
    with _refuse_what_does_nothing(trt, log, "hardware_compatible"):
        settings.hardware_compatibility_level = level


@contextmanager
def _refuse_what_does_nothing(trt: ModuleType, log: BuildLog, option: str) -> Iterator[None]:
    """Raise NirvanaError when the block makes the flavor say that the option does nothing."""
    num_before = len(log.messages)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    logged = [text for severity, text in log.messages[num_before:] if severity != "VERBOSE"]
    for text in (*logged, *(str(warning.message) for warning in caught)):
        if _DOES_NOTHING.search(text):
            raise _refuse(trt, option, text)


def _refuse(trt: ModuleType, option: str, said: str = "") -> NirvanaError:
    reason = f" It says: {said.strip()}" if said else ""
    return NirvanaError(
        f"{trt.__name__} {trt.__version__} has no {option}. Leave it out, or build with another "
        f"flavour.{reason}"
    )


def _name_cache(trt: ModuleType, device: LocalGpu | None) -> str:
    """Timings hold for one version of one flavor on one kind of GPU."""
    words = (trt.__name__, trt.__version__, device.name if device else "no gpu")
    return "-".join(re.sub(r"[^\w.]+", "_", word) for word in words) + ".timing"
