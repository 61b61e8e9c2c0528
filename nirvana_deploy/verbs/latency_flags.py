"""The flags of a budget in milliseconds: --latency, --speedup, and what they are compared with."""

from __future__ import annotations

import argparse
from typing import Any

from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags
from profiles.latency.latency_config import LatencyConfig
from profiles.latency.table_config import TableConfig
from pruning.errors import NirvanaError

_FLAGS = {"latency": "at_most", "speedup": "speedup", "target": "target", "precision": "precision"}
_BUDGETS = ("latency", "speedup")


def add_latency_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a budget in milliseconds to `parser` in place."""
    group = parser.add_argument_group(
        "latency", "In place of --budget: what the whole model may take on a target."
    )
    group.add_argument("--latency", metavar="TIME", help="with its unit: 12.5ms, 800us, 0.2s")
    group.add_argument("--speedup", type=float, metavar="X", help="dense over pruned latency")
    group.add_argument(
        "--target",
        metavar="NAME",
        help="cpu (default): this machine, measured through exported blocks in ONNX Runtime; or a "
        "name of `nirvana targets`: estimated, nothing is run",
    )
    group.add_argument(
        "--precision", metavar="P", help="of an estimate: fp32, tf32, fp16 (default), bf16, int8"
    )
    add_flags(parser, TableConfig, prefix="table")


def read_latency_flags(args: argparse.Namespace, given: dict[str, Any]) -> LatencyConfig | None:
    """Return the budget in milliseconds that was asked for, None where none was.

    Takes "table" out of the settings `given`, in place.

    Raises:
        NirvanaError: flags that only such a budget has a use for, without one; or one beside
            --budget, or two.
    """
    table = given.pop("table", None)
    flags = [name for name in _FLAGS if getattr(args, name) is not None]
    names = [*flags, *(["table.*"] if table is not None else [])]
    if not names:
        return None
    if args.plan is not None:
        raise NirvanaError(f"--{names[0]} is for learning what to keep; --plan says it.")
    if not any(name in _BUDGETS for name in flags):
        raise NirvanaError(
            f"--{names[0]} is for a budget in milliseconds: give --latency TIME or --speedup X."
        )
    if args.budget is not None:
        raise NirvanaError("--budget and --latency or --speedup do not go together. Give one.")
    values = {_FLAGS[name]: getattr(args, name) for name in flags}
    return LatencyConfig(**values, table=read_config(TableConfig, table or {}, key="table"))
