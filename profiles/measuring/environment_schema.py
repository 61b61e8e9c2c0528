"""What a captured environment holds, as JSON Schema (2020-12), and the check of data against it."""

from __future__ import annotations

from typing import Any

from pruning.errors import NirvanaError


def _or_null(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


_GPU: dict[str, Any] = {
    "type": "object",
    "required": ["name", "driver", "compute_capability"],
    "properties": {
        "name": _or_null("string"),
        "driver": _or_null("string"),
        "compute_capability": _or_null("string"),
        "memory_gib": _or_null("number"),
        "sm_clock_mhz": _or_null("number"),
        "max_sm_clock_mhz": _or_null("number"),
        "memory_clock_mhz": _or_null("number"),
        "power_watts": _or_null("number"),
        "power_limit_watts": _or_null("number"),
        "temperature_celsius": _or_null("number"),
    },
}
ENVIRONMENT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Where a measurement was made",
    "type": "object",
    "required": ["cpu", "num_threads", "num_allowed_cpus", "packages", "gpus", "captured_at"],
    "properties": {
        "cpu": {"type": "string"},
        "num_threads": {"type": "integer", "minimum": 1},
        "num_allowed_cpus": {"type": "integer", "minimum": 1},
        "num_cpus": _or_null("integer"),
        "cpu_governor": _or_null("string"),
        "container_cpu_limit": _or_null("number"),
        "container_memory_gib": _or_null("number"),
        "memory_gib": _or_null("number"),
        "load_average": {"type": ["array", "null"], "items": {"type": "number", "minimum": 0}},
        "system": {"type": "string"},
        "python": {"type": "string"},
        "packages": {"type": "object", "additionalProperties": _or_null("string")},
        "gpus": {"type": "array", "items": _GPU},
        "captured_at": {"type": "string"},
        "throttled_fraction": {"type": ["number", "null"], "minimum": 0},
        "throttling": {"type": "string"},
    },
}

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def check_environment(data: Any) -> None:
    """Raise NirvanaError naming the first place where `data` is not as the schema has it."""
    _check(data, ENVIRONMENT_SCHEMA, "environment")


def _check(data: Any, schema: dict[str, Any], place: str) -> None:
    """Check what of JSON Schema is used above: types, properties, items, minimum."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(data, bool) or not any(isinstance(data, _KINDS[kind]) for kind in kinds):
        raise NirvanaError(f"{place} should be {' or '.join(kinds)}, got {data!r}.")
    if data is None:
        return
    if "minimum" in schema and not data >= schema["minimum"]:
        raise NirvanaError(f"{place} should be {schema['minimum']} or more, got {data!r}.")
    if isinstance(data, dict):
        for name in schema.get("required", ()):
            if name not in data:
                raise NirvanaError(f"{place} lacks {name!r}.")
        for name, value in data.items():
            known = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if known is None:
                raise NirvanaError(f"{place} has an unknown {name!r}.")
            _check(value, known, f"{place}.{name}")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            _check(value, schema["items"], f"{place}[{number}]")
