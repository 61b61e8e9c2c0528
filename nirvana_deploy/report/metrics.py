"""How each metric of a task is called and written on the page."""

from nirvana_deploy.report.numbers import (
    format_change,
    format_decimal,
    format_percent,
    format_points,
    subtract,
)

# In the order in which they are listed; a metric of the user's own comes after them.
METRICS = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "exact_match": "Exact match",
    "f1": "Answer F1",
    "rouge_l": "ROUGE-L",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
}
# For a metric that is not here nothing is said of which side is the better one.
HIGHER_IS_BETTER = {
    "accuracy": True,
    "macro_f1": True,
    "exact_match": True,
    "f1": True,
    "rouge_l": True,
    "perplexity": False,
    "bits_per_byte": False,
    "loss": False,
    "kl": False,
}
_FRACTIONS = ("accuracy", "macro_f1", "exact_match", "f1", "rouge_l")


def name_metric(name: str, *, capital: bool = True) -> str:
    """Name a metric in words."""
    words = METRICS.get(name, name.replace("_", " ").capitalize())
    return words if capital or words[:2].isupper() else words[0].lower() + words[1:]


def format_metric(name: str, value: float | None) -> str:
    """Write a metric's value: a percentage or a plain number."""
    return format_percent(value) if name in _FRACTIONS else format_decimal(value)


def format_metric_change(name: str, dense: float | None, pruned: float | None) -> str:
    """Write how far apart two values are: in points, or in per cent of the dense one."""
    if name in _FRACTIONS:
        return format_points(subtract(pruned, dense))
    return format_change(dense, pruned)


def metric_axis(name: str) -> str:
    """Return plotly's number format for a metric."""
    return ".1%" if name in _FRACTIONS else ".3f"
