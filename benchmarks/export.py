"""Runs all that is measured of exports: tracing MiniLM with its verification, and latency by form.

    pip install --no-deps --target GENAI onnxruntime-genai
    python benchmarks/export.py --genai GENAI

One after the other: `export_trace.py` and `export_latency.py`, each of which can be run alone and
writes its own file in benchmarks/results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    """Run both, and end with the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genai", type=Path, required=True, help="folder with onnxruntime-genai")
    arguments = parser.parse_args()
    for script in (["export_trace.py"], ["export_latency.py", "--genai", str(arguments.genai)]):
        command = [sys.executable, str(FOLDER / script[0]), *script[1:]]
        ended = subprocess.run(command, check=False)
        if ended.returncode:
            sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
