"""Draw the small data set inside the package from the debian-descriptions set.

    python benchmarks/make_debian_sections.py ../shared/data/debian-descriptions

Balanced over the 24 sections; deterministic, so that a second run writes the same rows.
"""

import json
import sys
from pathlib import Path

import pandas as pd

NUM_ROWS = {"train": 100, "validation": 13}  # a section; validation's rarest section has 13
MAX_CHARACTERS = 1000  # longer texts are left out, not cut
OUT = Path(__file__).parent.parent / "pruning" / "data" / "debian_sections"


def draw_balanced(frame: pd.DataFrame, num_rows: int) -> pd.DataFrame:
    """Take `num_rows` rows of each section, in an order that mixes the sections."""
    short = frame[(frame.label >= 0) & (frame.description.str.len() <= MAX_CHARACTERS)]
    drawn = short.groupby("label").sample(num_rows, random_state=0)
    return drawn.sample(frac=1, random_state=0).reset_index(drop=True)


def main() -> None:
    """Write train.parquet and validation.parquet."""
    source = Path(sys.argv[1])
    labels = json.loads((source / "labels.json").read_text())
    OUT.mkdir(parents=True, exist_ok=True)
    for split, num_rows in NUM_ROWS.items():
        drawn = draw_balanced(pd.read_parquet(source / f"{split}.parquet"), num_rows)
        drawn["section"] = drawn.label.map(labels.__getitem__)
        columns = ["package", "description", "section"]
        drawn[columns].to_parquet(OUT / f"{split}.parquet", index=False, compression="zstd")
        print(split, len(drawn), (OUT / f"{split}.parquet").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
