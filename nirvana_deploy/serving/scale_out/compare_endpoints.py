"""Replays requests against two endpoints and says how far they agree, and how fast each is.

    python compare_endpoints.py URL_A URL_B requests.jsonl [--out FILE] [--rounds 3]

A URL is that of an `infer` of the Open Inference Protocol, such as
http://localhost:8000/v2/models/NAME/versions/1/infer. The file has a request's JSON body a line.
Requests go to both in turns, one at a time. Needs Python 3.9 and nothing else.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60
NUM_RESAMPLES = 2000
NOTHING_FOUND = {"max_abs_difference": 0.0, "largest": 0.0, "not_a_number": 0}


def ask(url: str, body: bytes) -> tuple[list[dict[str, object]], float]:
    """Return the outputs of one request, and milliseconds; raise RuntimeError with the reason."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            outputs = json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        reason = error.read().decode(errors="replace")[:200]
        raise RuntimeError(f"{url}: HTTP {error.code}: {reason}") from error
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeError(f"{url}: {error!r}") from error
    return outputs, 1000 * (time.perf_counter() - started)


def compare(
    one: list[dict[str, Any]],
    other: list[dict[str, Any]],
    counts: dict[str, list[float]],
    by_output: dict[str, dict[str, object]],
) -> None:
    """Add what two answers have in common to `counts` and `by_output`, in place."""
    others = {output["name"]: output for output in other}
    for output in one:
        match = others.get(output["name"])
        if match is None or match["shape"] != output["shape"]:
            raise RuntimeError(f"The endpoints differ in form: {output['name']} {output['shape']}.")
        a, b = output["data"], match["data"]
        if not str(output["datatype"]).startswith("FP"):  # labels, or generated tokens
            counts["tokens_equal"] += [float(x == y) for x, y in zip(a, b)]  # noqa: B905
            continue
        note_differences(a, b, by_output.setdefault(output["name"], dict(NOTHING_FOUND)))
        width = output["shape"][-1] if output["name"] == "logits" else 0
        for start in range(0, len(a), width) if width else ():
            row_a, row_b = a[start : start + width], b[start : start + width]
            if not all(is_finite(value) for value in row_a + row_b):
                counts["argmax_equal"].append(0.0)  # no prediction can be read from NaN
                continue
            best = max(range(width), key=row_a.__getitem__)
            counts["argmax_equal"].append(float(best == max(range(width), key=row_b.__getitem__)))
            counts["divergences"].append(divergence(row_a, row_b))


def note_differences(a: list[Any], b: list[object], found: dict[str, Any]) -> None:
    """Add the differences of one output to `found`, in place; null and NaN have no size."""
    for x, y in zip(a, b):  # noqa: B905
        if is_finite(x):
            found["largest"] = max(found["largest"], abs(x))
        if is_finite(x) and is_finite(y):
            found["max_abs_difference"] = max(found["max_abs_difference"], abs(x - y))
        elif x is None or x != y:  # NaN is not even itself
            found["not_a_number"] += 1


def relate(difference: float, largest: float) -> "float | None":
    """Return a difference over a magnitude; None where that is 0 and the difference is not."""
    if difference == 0:
        return 0.0
    return difference / largest if largest else None


def is_finite(value: Any) -> bool:
    """Return whether a value of an answer is a finite number; servers write NaN as null or NaN."""
    return value is not None and math.isfinite(value)


def divergence(a: list[float], b: list[float]) -> float:
    """Return KL(softmax(a) || softmax(b)) in nats."""
    log_a, log_b = log_softmax(a), log_softmax(b)
    return sum(math.exp(x) * (x - y) for x, y in zip(log_a, log_b))  # noqa: B905


def log_softmax(values: list[float]) -> list[float]:
    """Return logarithms of probabilities."""
    highest = max(values)
    total = highest + math.log(sum(math.exp(value - highest) for value in values))
    return [value - total for value in values]


def estimate(values: list[float], of: Any = statistics.fmean) -> dict[str, float]:
    """Return a statistic with its 95 % interval, by resampling."""
    draw = random.Random(0)
    drawn = sorted(of(draw.choices(values, k=len(values))) for _ in range(NUM_RESAMPLES))
    low, high = drawn[int(0.025 * NUM_RESAMPLES)], drawn[int(0.975 * NUM_RESAMPLES)]
    return {"value": of(values), "low": low, "high": high}


def ratio_of_medians(pairs: list[tuple[float, float]]) -> float:
    """Return the first's median over the second's: how many times as fast the second is."""
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def replay(url_a: str, url_b: str, bodies: list[bytes], rounds: int) -> dict[str, object]:
    """Send every request to both, and return what was found."""
    counts: dict[str, list[float]] = {
        name: [] for name in ("argmax_equal", "divergences", "tokens_equal")
    }
    by_output: dict[str, dict[str, Any]] = {}
    pairs: list[tuple[float, float]] = []
    for url in (url_a, url_b):  # the first request of a connection or a model is not like others
        ask(url, bodies[0])
    for turn in range(rounds):
        for number, body in enumerate(bodies):
            if (turn + number) % 2:  # neither always comes first
                (other, ms_b), (one, ms_a) = ask(url_b, body), ask(url_a, body)
            else:
                (one, ms_a), (other, ms_b) = ask(url_a, body), ask(url_b, body)
            pairs.append((ms_a, ms_b))
            if turn == 0:
                compare(one, other, counts, by_output)
    found: dict[str, object] = {"requests": len(bodies), "rounds": rounds, "a": url_a, "b": url_b}
    for name, title in (
        ("argmax_equal", "argmax_agreement"),
        ("divergences", "kl_a_to_b_nats"),
        ("tokens_equal", "token_match"),
    ):
        if counts[name]:
            found[title] = estimate(counts[name])
    if by_output:
        found["outputs"] = by_output
        found["max_abs_difference"] = max(o["max_abs_difference"] for o in by_output.values())
    for output in by_output.values():  # over the output's own largest value in the first answers
        output["relative_difference"] = relate(output["max_abs_difference"], output["largest"])
        if output["not_a_number"]:
            output["max_abs_difference"] = output["relative_difference"] = None
            found["max_abs_difference"] = None
    for title, index in (("latency_a_ms", 0), ("latency_b_ms", 1)):
        found[title] = estimate([pair[index] for pair in pairs], statistics.median)
    found["times_as_fast"] = estimate(pairs, ratio_of_medians)  # type: ignore[arg-type]
    return found


def main() -> int:
    """Read the arguments, replay, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url_a", help="the endpoint that serves today")
    parser.add_argument("url_b", help="the endpoint that is to take its place")
    parser.add_argument("requests", type=Path, help="a request's JSON body a line")
    parser.add_argument("--out", type=Path, help="file for the figures")
    parser.add_argument("--rounds", type=int, default=3, help="times that all of them are sent")
    args = parser.parse_args()
    for url in (args.url_a, args.url_b):
        if not url.startswith(("http://", "https://")):
            sys.stderr.write(f"error: expected the URL of an endpoint, http://..., got {url}.\n")
            return 1
    if not args.requests.is_file():
        sys.stderr.write(f"error: {args.requests} is missing: expected requests, a body a line.\n")
        return 1
    bodies = [line.strip() for line in args.requests.read_bytes().splitlines() if line.strip()]
    if not bodies or args.rounds < 1:
        sys.stderr.write(f"error: {args.requests} holds no requests, or --rounds is below 1.\n")
        return 1
    try:
        found = replay(args.url_a, args.url_b, bodies, args.rounds)
    except RuntimeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    text = json.dumps(found, indent=2) + "\n"
    sys.stdout.write(text)
    if args.out is not None:
        args.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
