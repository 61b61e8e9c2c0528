"""How a number is written on the page: digits, units, separators. None is written as a dash."""

MISSING = "—"
TIMES = "\u00d7"
_NBSP = "\u00a0"
_MINUS = "\u2212"
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_count(value: int | None) -> str:
    """Write a count in full: 22,713,216."""
    return MISSING if value is None else f"{value:,}".replace("-", _MINUS)


def format_short(value: float | None, unit: str = "") -> str:
    """Write a large number to three digits with its metric prefix: 1.36 G."""
    if value is None:
        return MISSING
    for size, prefix in _STEPS:
        # 999,500 and more would round to "1,000 k", so it takes the next prefix.
        if abs(value) >= size * 0.9995:
            return f"{_significant(value / size)}{_NBSP}{prefix}{unit}"
    return f"{_significant(value)}{_NBSP}{unit}".rstrip()


def format_tick(value: float) -> str:
    """Write a round number with its metric prefix and no more digits than it has: 20 G."""
    size, prefix = next(((s, p) for s, p in _STEPS if value >= s), (1.0, ""))
    return f"{value / size:g}{_NBSP}{prefix}".rstrip()


def format_bytes(value: int | None) -> str:
    """Write a size in decimal units: 90.9 MB."""
    return format_short(value, "B")


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """Write a fraction of one as a percentage: 80.6 %."""
    return MISSING if fraction is None else f"{fraction * 100:.{digits}f}{_NBSP}%"


def format_points(difference: float | None, digits: int = 1) -> str:
    """Write the difference of two fractions in percentage points with its sign."""
    if difference is None:
        return MISSING
    return f"{_signed(difference * 100, digits)}{_NBSP}points"


def format_ratio(ratio: float | None) -> str:
    """Write a ratio to two decimals and a times sign."""
    return MISSING if ratio is None else f"{ratio:.2f}{TIMES}"


def format_change(dense: float | None, pruned: float | None) -> str:
    """Write how `pruned` differs from `dense` in per cent of `dense`, with its sign."""
    if dense is None or pruned is None or dense == 0:
        return MISSING
    return f"{_signed((pruned / dense - 1) * 100, 1)}{_NBSP}%"


def format_milliseconds(value_ms: float | None) -> str:
    """Write a latency to three significant digits: 46.2 ms."""
    return MISSING if value_ms is None else f"{_significant(value_ms)}{_NBSP}ms"


def format_duration(seconds: float | None) -> str:
    """Write a run time: 0.4 s, 48 s, 4 min 12 s, 2 h 5 min."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f}{_NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{_NBSP}min {whole % 60}{_NBSP}s"
    return f"{whole // 3600}{_NBSP}h {whole % 3600 // 60}{_NBSP}min"


def format_decimal(value: float | None, digits: int = 3) -> str:
    """Write a plain number with a fixed count of decimals."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def format_error(value: float | None) -> str:
    """Write a tiny difference: 2.4e-06; an exact zero is written as 0."""
    return MISSING if value is None else ("0" if value == 0 else f"{value:.1e}")


def divide(numerator: float | None, denominator: float | None) -> float | None:
    """Divide, or return None where either side is unknown or the denominator is zero."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def subtract(left: float | None, right: float | None) -> float | None:
    """Subtract, or return None where either side is unknown."""
    return None if left is None or right is None else left - right


def _significant(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{digits}f}".replace("-", _MINUS)


def _signed(value: float, digits: int) -> str:
    written = f"{abs(value):.{digits}f}"
    if float(written) == 0:
        return f"±{written}"
    return f"{'+' if value > 0 else _MINUS}{written}"


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
