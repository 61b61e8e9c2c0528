"""The scripts of docs/gates.md are run, on a tiny model and a few rows."""

import csv
import random
import re
from pathlib import Path

import torch

from pruning.checkpoints.checkpoint import load_plan, load_pruned
from pruning.plans.cost import MacCost, dense_cost, plan_cost
from tests.pruning.tiny_text import CLASSES
from tests.pruning.training.tiny_tasks import draw_row, make_headed, make_tokenizer

PAGE = Path(__file__).parent.parent / "docs" / "gates.md"


def write_rows(path: Path, num_rows: int) -> None:

    draw, classes = random.Random(0), sorted(CLASSES)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for _ in range(num_rows):
            row = draw_row("classification", draw)
            rows.writerow([row["text"], classes.index(row["label"])])


def test_the_scripts_work_as_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = make_headed("classification", num_labels=3)
    model.save_pretrained("model")
    make_tokenizer(Path("model")).save_pretrained("model")
    Path("rows").mkdir()
    for name, num_rows in (("train", 160), ("validation", 16)):
        for folder in (".", "rows"):
            write_rows(Path(folder) / f"{name}.csv", num_rows)

    script, recovery = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert 'MODEL = "your/fine-tuned-model"' in script
    said: dict = {}
    exec(script.replace("your/fine-tuned-model", "model"), said)
    plan = load_plan("runs/pruned")
    assert plan == said["plan"]
    assert 0.4 < plan_cost(plan, MacCost(128)) / dense_cost(plan.dims, MacCost(128)) <= 0.5
    assert said["callback"].undecided_fraction is not None

    before = load_pruned("runs/pruned").state_dict()
    exec(recovery, said)
    after = load_pruned("runs/recovered").state_dict()
    assert set(after) == set(before)
    assert any(not torch.equal(after[name], before[name]) for name in after)
