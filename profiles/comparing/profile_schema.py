"""What a profile's JSON holds, as JSON Schema (2020-12), and the check of data against it."""

from __future__ import annotations

from typing import Any

from profiles.measuring.environment_schema import ENVIRONMENT_SCHEMA
from profiles.measuring.schema_check import check_data, or_null

_MS = {"type": "number", "minimum": 0}
_MS_OR_NULL = {"type": ["number", "null"], "minimum": 0}
_COUNT = {"type": "integer", "minimum": 1}
_SAMPLES = {"type": "array", "items": _MS}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_ANY: dict[str, Any] = {}


def _record(properties: dict[str, Any], *, or_none: bool = False) -> dict[str, Any]:
    """Return the schema of an object that has all of `properties`."""
    return {
        "type": ["object", "null"] if or_none else "object",
        "required": list(properties),
        "properties": properties,
    }


def _listed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": _record(properties)}


_SPEEDUP = _record(
    {
        "ratio": _MS,
        "low": _MS_OR_NULL,
        "high": _MS_OR_NULL,
        "confidence": _MS,
        "note": or_null("string"),
    }
)
_TIMING = _record(
    {
        "median_ms": _MS,
        "mean_ms": _MS,
        "median_low_ms": _MS_OR_NULL,
        "median_high_ms": _MS_OR_NULL,
        "p90_ms": _MS_OR_NULL,
        "p90_note": or_null("string"),
        "num_samples": _COUNT,
        "coefficient_of_variation": _MS,
        "throughput_per_s": _MS,
        "samples_ms": _SAMPLES,
        "parts": {
            "type": "object",
            "additionalProperties": _record({"median_ms": _MS, "coefficient_of_variation": _MS}),
        },
        "energy": _record(
            {
                "joules_per_call": _MS,
                "mean_watts": _MS,
                "num_calls": _COUNT,
                "seconds": _MS,
                "idle_subtracted": {"type": "boolean"},
            },
            or_none=True,
        ),
    }
)
_TOKENS = _record(
    {
        "median_ms": _MS,
        "low_ms": _MS_OR_NULL,
        "high_ms": _MS_OR_NULL,
        "p90_ms": _MS_OR_NULL,
        "p90_note": or_null("string"),
        "num_samples": _COUNT,
        "samples_ms": _SAMPLES,
    }
)
_GENERATION = _record(
    {"first_token": _TOKENS, "inter_token": _TOKENS, "slowest_gap_ms": _MS, "tokens_per_s": _MS}
)
PROFILE_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Two models measured against each other",
    **_record(
        {
            "environment": ENVIRONMENT_SCHEMA,
            "method": {"type": "object", "additionalProperties": _ANY},
            "cases": _listed(
                {
                    "batch": _COUNT,
                    "length": _COUNT,
                    "dense": _TIMING,
                    "pruned": _TIMING,
                    "speedup": _SPEEDUP,
                    "stationary": {"type": "boolean"},
                    "warmup_seconds": _MS,
                    "measured_seconds": _MS,
                    "other_cpu_fraction": _MS_OR_NULL,
                    "notes": _TEXTS,
                    "verdict": {"type": "string"},
                }
            ),
            "memory": {
                "type": "object",
                "additionalProperties": _record(
                    {"host_peak_mib": _MS_OR_NULL, "gpu_mib": or_null("number"), "what": _ANY}
                ),
            },
            "generations": _listed(
                {
                    "batch": _COUNT,
                    "prompt_length": _COUNT,
                    "num_tokens": _COUNT,
                    "dense": _GENERATION,
                    "pruned": _GENERATION,
                    "first_token_speedup": _SPEEDUP,
                    "inter_token_speedup": _SPEEDUP,
                    "whole_speedup": _SPEEDUP,
                    "stationary": {"type": "boolean"},
                    "other_cpu_fraction": _MS_OR_NULL,
                    "notes": _TEXTS,
                }
            ),
            "loads": _listed(
                {
                    "model": {"type": "string"},
                    "batch": _COUNT,
                    "length": _COUNT,
                    "offered_per_s": _MS_OR_NULL,
                    "num_callers": _COUNT,
                    "num_requests": _COUNT,
                    "achieved_per_s": _MS,
                    "median_ms": _MS,
                    "p90_ms": _MS_OR_NULL,
                    "p90_note": or_null("string"),
                    "overloaded": {"type": "boolean"},
                }
            ),
            "partial": or_null("string"),
        }
    ),
}


def check_profile(data: Any) -> None:
    """Raise NirvanaError naming the first place where `data` is not as the schema has it."""
    check_data(data, PROFILE_SCHEMA, "profile")
