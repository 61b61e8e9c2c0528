"""What a machine can do at most: the figures of `targets/*.toml`, each with its source."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from profiles.measuring.environment import count_allowed_cpus, read_cpu_name
from pruning.errors import NirvanaError

TARGETS_FOLDER = Path(__file__).parent
# The source of a figure that no vendor, paper or measurement was found for.
UNSOURCED = "unsourced"
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")
BYTES_OF = {"fp32": 4.0, "tf32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number and where it is from.

    Attributes:
        source: The address of a vendor's page or a paper, how the number was measured, or
            "unsourced".
        note: what was done to the number of the source, or what it holds for.
    """

    value: float
    source: str
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine that models are pruned for.

    Attributes:
        name: by which it is asked for: the name of its file, or "cpu" for this machine's.
        compute_capability: None for a CPU.
        memory_bandwidth_gb_per_s: of the device's own memory, in 10^9 bytes.
        tera_ops_per_s: dense rates by precision, a multiply and an add being two; sums in fp32
            where the device has a rate of its own for that. Without entry: not known, or none.
        alignment_bytes: sizes of a matrix product in multiples of this keep the device's matrix
            units fed; None where no rule is known.
    """

    name: str
    title: str
    kind: str
    memory_gb: float
    compute_capability: str | None
    memory_bandwidth_gb_per_s: Figure
    tera_ops_per_s: Mapping[str, Figure]
    alignment_bytes: Figure | None

    def list_unsourced(self, precision: str | None = None) -> tuple[str, ...]:
        """Return the names of the unsourced figures: all of them, or those of one precision."""
        figures = {"memory_bandwidth_gb_per_s": self.memory_bandwidth_gb_per_s}
        figures |= {
            f"tera_ops_per_s.{name}": figure
            for name, figure in self.tera_ops_per_s.items()
            if precision in (None, name)
        }
        return tuple(name for name, figure in figures.items() if figure.source == UNSOURCED)

    def rate(self, precision: str) -> Figure:
        """Return operations per second, in 10^12.

        Raises:
            NirvanaError: the target has no figure for the precision.
        """
        if precision not in self.tera_ops_per_s:
            raise NirvanaError(
                f"{self.title} has no rate for {precision!r}; it has "
                f"{', '.join(self.tera_ops_per_s)}. Ask for one of these."
            )
        return self.tera_ops_per_s[precision]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def list_target_names() -> tuple[str, ...]:
    """Return the names of the targets that have a file."""
    return tuple(sorted(path.stem for path in TARGETS_FOLDER.glob("*.toml")))


def load_target(name: str) -> Target:
    """Read a target by its name; "cpu" measures this machine's processor for about a second.

    Raises:
        NirvanaError: there is none of that name; the message has the nearest ones.
    """
    if name == "cpu":
        return detect_cpu()
    names = list_target_names()
    if name not in names:
        nearest = get_close_matches(name.lower(), names, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise NirvanaError(
            f"There is no target {name!r}; expected cpu (this machine's), or one of "
            f"{', '.join(names)}.{hint}"
        )
    return read_target(TARGETS_FOLDER / f"{name}.toml")


def read_target(path: Path) -> Target:
    """Read and check one file.

    Raises:
        NirvanaError: a figure is missing, is no positive number, or has no source.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, an endless integer
        raise NirvanaError(f"{path} is not TOML: {error}.") from error
    except OSError as error:
        raise NirvanaError(f"{path} cannot be read: {error.strerror}.") from error
    needed = ("title", "kind", "memory_gb", "memory_bandwidth_gb_per_s", "tera_ops_per_s")
    missing = [key for key in needed if key not in data]
    if missing:
        raise NirvanaError(f"{path} lacks {', '.join(missing)}.")
    rates = data["tera_ops_per_s"]
    texts = all(isinstance(data[key], str) for key in ("title", "kind"))
    if not (texts and isinstance(rates, dict) and _is_positive(data["memory_gb"])):
        raise NirvanaError(
            f"{path}: expected title and kind as text, memory_gb as a number above 0, and "
            "tera_ops_per_s as a table."
        )
    unknown = [name for name in rates if name not in PRECISIONS]
    if unknown or not rates:
        raise NirvanaError(
            f"{path}: tera_ops_per_s has the precisions {', '.join(rates) or 'none'}; expected "
            f"some of {', '.join(PRECISIONS)}."
        )
    capability = data.get("compute_capability")
    alignment = data.get("alignment_bytes")
    return Target(
        name=path.stem,
        title=data["title"],
        kind=data["kind"],
        memory_gb=float(data["memory_gb"]),
        compute_capability=None
        if capability is None
        else str(_require_source(capability, path, "compute_capability")["value"]),
        memory_bandwidth_gb_per_s=_read_figure(
            data["memory_bandwidth_gb_per_s"], path, "memory_bandwidth_gb_per_s"
        ),
        tera_ops_per_s={
            name: _read_figure(rates[name], path, f"tera_ops_per_s.{name}")
            for name in PRECISIONS
            if name in rates
        },
        alignment_bytes=None
        if alignment is None
        else _read_figure(alignment, path, "alignment_bytes"),
    )


def _read_figure(data: Any, path: Path, key: str) -> Figure:
    value = _require_source(data, path, key)["value"]
    if not _is_positive(value):
        raise NirvanaError(f"{path}: {key} must be a positive number, got {value!r}.")
    return Figure(value=float(value), source=data["source"], note=data.get("note"))


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < cast(float, value) < 1e12


def _require_source(data: Any, path: Path, key: str) -> dict[str, Any]:
    if not isinstance(data, dict) or "value" not in data or not str(data.get("source", "")):
        raise NirvanaError(f"{path}: {key} needs a value and a source, got {data!r}.")
    return data


_SIDE = 1024  # of the square matrices: 4 MB each in fp32
_COPIED_BYTES = 256 * 2**20  # beyond the caches of most processors
_NUM_TRIES = 7


@cache
def detect_cpu() -> Target:
    """Measure the fp32 rate and the memory bandwidth of the CPUs that this process may use.

    Both are the best of a few tries: what the processor can do when it is left alone. Numpy's own
    threads do the work, so a limit on them (OMP_NUM_THREADS) limits the figures too.
    """
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(2, _SIDE, _SIDE)).astype(np.float32)
    product = np.empty_like(left)
    seconds = _best_seconds(lambda: np.matmul(left, right, out=product))
    source = np.zeros(_COPIED_BYTES // 8)
    copy = np.ones_like(source)
    copy_seconds = _best_seconds(lambda: np.copyto(copy, source))
    return Target(
        name="cpu",
        title=read_cpu_name(),
        kind="cpu",
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        compute_capability=None,
        memory_bandwidth_gb_per_s=Figure(
            value=2 * _COPIED_BYTES / copy_seconds / 1e9,
            source=f"measured here: best of {_NUM_TRIES} copies of {_COPIED_BYTES >> 20} MiB",
            note="by one thread; read and written bytes counted",
        ),
        tera_ops_per_s={
            "fp32": Figure(
                value=2 * _SIDE**3 / seconds / 1e12,
                source=f"measured here: best of {_NUM_TRIES} products of {_SIDE} x {_SIDE}",
                note=f"numpy's threads, on at most {count_allowed_cpus()} CPUs",
            )
        },
        alignment_bytes=None,
    )


def _best_seconds(call: Callable[[], object]) -> float:
    def once() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(_NUM_TRIES))
