"""What a captured environment holds, as JSON Schema (2020-12), and the check of data against it."""

from __future__ import annotations

from typing import Any

from profiles.measuring.schema_check import check_data, or_null

_GPU: dict[str, Any] = {
    "type": "object",
    "required": ["name", "driver", "compute_capability"],
    "properties": {
        "name": or_null("string"),
        "driver": or_null("string"),
        "compute_capability": or_null("string"),
        "memory_gib": or_null("number"),
        "sm_clock_mhz": or_null("number"),
        "max_sm_clock_mhz": or_null("number"),
        "memory_clock_mhz": or_null("number"),
        "power_watts": or_null("number"),
        "power_limit_watts": or_null("number"),
        "temperature_celsius": or_null("number"),
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
        "num_cpus": or_null("integer"),
        "cpu_governor": or_null("string"),
        "container_cpu_limit": or_null("number"),
        "container_memory_gib": or_null("number"),
        "memory_gib": or_null("number"),
        "load_average": {"type": ["array", "null"], "items": {"type": "number", "minimum": 0}},
        "system": {"type": "string"},
        "python": {"type": "string"},
        "packages": {"type": "object", "additionalProperties": or_null("string")},
        "gpus": {"type": "array", "items": _GPU},
        "captured_at": {"type": "string"},
        "throttled_fraction": {"type": ["number", "null"], "minimum": 0},
        "throttling": {"type": "string"},
    },
}


def check_environment(data: Any) -> None:
    """Raise NirvanaError naming the first place where `data` is not as the schema has it."""
    check_data(data, ENVIRONMENT_SCHEMA, "environment")
