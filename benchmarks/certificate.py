"""How often a certificate's claim is wrong, and how close it comes: redraws from a frozen pool.

    python benchmarks/certificate.py

The pool has 50,000 rows and eight candidates from large to small. Each answers otherwise than the
baseline on some rows, those of a larger candidate among them; the rates are what the whole pool
says. Rows are drawn from it 1,000 times, as users draw theirs, and certified each time. A claim is
wrong where the chosen candidate's rate in the pool is above the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]

from figures import describe_hardware, make_bar  # noqa: E402

from nirvana_deploy.certificate import mean_p_value  # noqa: E402

RESULT = Path(__file__).parent / "results" / "certificate.json"
POOL, DRAWS = 50_000, 1_000
LIMIT, CONFIDENCE = 0.02, 0.95
# The worst case is among them: a candidate just above the limit behind one well below.
RATES = (0.001, 0.004, 0.008, 0.012, 0.016, 0.0202, 0.026, 0.04)


def make_pool(kind: str, seed: int) -> np.ndarray[Any, Any]:
    """Return what each candidate loses on each row: [candidates, rows], from 0 to 1."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(POOL)
    pool = np.zeros((len(RATES), POOL))
    for candidate, rate in zip(pool, RATES, strict=True):
        if kind == "flips":
            candidate[order[: round(rate * POOL)]] = 1
        else:  # some of a row's answer is lost, as of spans and tags
            lost = order[: round(2 * rate * POOL)]
            candidate[lost] = np.linspace(0.2, 0.8, len(lost))
    return pool


def choose(losses: np.ndarray[Any, Any]) -> int | None:
    """Return the last candidate before the first that does not pass."""
    chosen = None
    for number, row in enumerate(losses):
        if mean_p_value(row.tolist(), LIMIT) > 1 - CONFIDENCE:
            break
        chosen = number
    return chosen


def measure(kind: str, num_rows: int, num_draws: int) -> dict[str, Any]:
    """Certify on as many draws, and count the claims that are wrong and the ones that are best."""
    pool = make_pool(kind, seed=0)
    rates = pool.mean(axis=1)
    best = int(np.flatnonzero(rates <= LIMIT)[-1])
    generator = np.random.default_rng(1)
    chosen = [choose(pool[:, generator.integers(0, POOL, num_rows)]) for _ in range(num_draws)]
    named = ["none" if number is None else f"{rates[number]:.4f}" for number in chosen]
    wrong = sum(number is not None and bool(rates[number] > LIMIT) for number in chosen)
    return {
        "rows": num_rows,
        "draws": num_draws,
        "wrong claims": wrong / num_draws,
        "best valid candidate": f"{rates[best]:.4f}",
        "chosen, by its rate in the pool": {n: named.count(n) for n in sorted(set(named))},
    }


def main() -> None:
    """Measure both kinds of claims at several numbers of rows, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    data, bars = {}, []
    for kind in ("flips", "loss"):
        for num_rows in (500, 1_000, 3_308):
            name = f"{kind}, {num_rows:,} rows"
            data[name] = measure(kind, num_rows, args.draws)
            print(name, json.dumps(data[name]), flush=True)
            wrong = float(data[name]["wrong claims"])
            bars.append(make_bar(f"{name}: wrong claims", wrong, 1 - CONFIDENCE, "at_most"))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {"numpy": version("numpy")},
        "limit": LIMIT,
        "confidence": CONFIDENCE,
        "data": data,
        "bars": bars,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
