"""Load on the Ray Serve application of a package: two replicas, one of them killed in the middle.

    RAY_ENV/bin/serve run ray_app:app        # in the package's folder
    python benchmarks/serving_ray.py --onnx PACKAGED_ONNX --model NAME [--seconds 60] [--rate 6]

Writes `benchmarks/results/serving_ray.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
from pathlib import Path

from figures import describe_hardware, make_bar
from serving_load import make_asks, run_load
from serving_models import VOCABULARY

RESULTS = Path(__file__).parent / "results" / "serving_ray.json"


def list_replicas() -> list[int]:
    """Return the processes that run the model."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::ServeReplica:default:Model"):
                found.append(int(path.parent.name))
    return found


def main() -> None:
    """Run the load and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=6.0)
    args = parser.parse_args()
    before = list_replicas()
    asks = make_asks(args.onnx, VOCABULARY)
    figures = run_load(
        f"{args.url}/v2/models/{args.model}/infer",
        asks,
        rate=args.rate,
        seconds=args.seconds,
        at_half=lambda: os.kill(before[0], signal.SIGKILL),
    )
    outcomes = figures["outcomes"]
    result = {
        "benchmark": "serving_ray",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "load_average_at_end": os.getloadavg()[0],
        "versions": {"ray": "2.60.0"},
        "data": "random tokens; MiniLM-L6's weights with a fresh head",
        "replicas": {"before": len(before), "after": len(list_replicas())},
        "load": figures,
        "bars": [
            make_bar("replicas at the start", len(before), 2, "at_least"),
            make_bar("wrong answers", outcomes.get("wrong", 0), 0, "at_most"),
            make_bar("requests that hung", outcomes.get("hang", 0), 0, "at_most"),
            make_bar("right in the last tenth", figures["right_in_the_last_tenth"], 1, "at_least"),
        ],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
