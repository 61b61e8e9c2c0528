import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.cutting.repack import repack
from pruning.errors import MissingExtraError, NirvanaError
from pruning.tasks.text_data import collate, load_text
from pruning.training.distillation import distillation_loss
from pruning.training.recovery import recover
from pruning.training.training_configs import DistillationConfig, LoraConfig, RecoveryConfig
from tests.pruning.tiny_models import uneven_plan
from tests.pruning.training.tiny_tasks import make_headed, make_tokenizer, write_rows

PURE = DistillationConfig(weight=1.0)
FULL = RecoveryConfig(
    max_steps=24, batch_size=8, learning_rate=3e-3, save_steps=10, bf16=False, distillation=PURE
)
LORA = RecoveryConfig(
    max_steps=24,
    batch_size=8,
    learning_rate=1e-2,
    save_steps=10,
    bf16=False,
    distillation=PURE,
    lora=LoraConfig(rank=4, alpha=8.0),
)
CONFIGS = {"full": FULL, "lora": LORA}


def make_case(task: str, folder: Path):
    tokenizer = make_tokenizer(folder / "tokenizer")
    text = load_text(write_rows(folder / "rows", task), tokenizer)
    dense = make_headed(task, num_labels=3) if task == "classification" else make_headed(task)
    for parameter in dense.parameters():  # random models this small say the same of every row
        parameter.data *= 5 if parameter.dim() == 2 else 1
    return tokenizer, text, dense, repack(dense, uneven_plan(dense))


@torch.no_grad()
def measure_divergence(student, teacher, text, tokenizer) -> float:
    batch = collate(tokenizer, list(text.train))
    logits = [model.eval()(**batch).logits for model in (student, teacher)]
    return float(distillation_loss(*logits, 1.0))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("task", ["classification", "seq2seq", "causal-lm"])
def test_a_cut_model_comes_nearer_to_its_teacher_and_is_saved(kind, task, tmp_path) -> None:
    tokenizer, text, dense, smaller = make_case(task, tmp_path)
    before = {name: tensor.clone() for name, tensor in smaller.state_dict().items()}
    far = measure_divergence(smaller, dense, text, tokenizer)
    curve = recover(smaller, dense, text, tokenizer, CONFIGS[kind], tmp_path / "work")
    steps = [point["step"] for point in curve]
    assert steps == [5, 10, 15, 20, 24], "every fifth, and where a checkpoint is written: the last"
    assert measure_divergence(smaller, dense, text, tokenizer) < 0.85 * far
    assert set(smaller.state_dict()) == set(before), "adapters are left in the model"
    moved = [n for n, t in smaller.state_dict().items() if not torch.equal(t, before[n])]
    assert moved
    if kind == "lora":
        assert not [name for name in moved if "norm" in name.lower() or name.endswith("bias")]
    assert not smaller._forward_hooks
    assert all(p.requires_grad for p in smaller.parameters()), "adapters had frozen them"
    save_pruned(smaller, tmp_path / "out", tokenizer)
    loaded = load_pruned(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in smaller.state_dict().items())


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_interrupted_recovery_goes_on_to_the_same_bits(kind, tmp_path) -> None:
    tokenizer, text, dense, whole = make_case("classification", tmp_path)
    _, _, _, resumed = make_case("classification", tmp_path)
    curve = recover(whole, dense, text, tokenizer, CONFIGS[kind], tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "checkpoint-24")
    assert recover(resumed, dense, text, tokenizer, CONFIGS[kind], tmp_path / "work") == curve
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_seed_draws_the_adapters(tmp_path) -> None:
    curves = []
    for number, seed in enumerate((3, 3, 4)):
        tokenizer, text, dense, smaller = make_case("classification", tmp_path)
        torch.manual_seed(number)  # what came before must not count
        config = replace(LORA, seed=seed, max_steps=5)
        work = tmp_path / f"work{number}"
        curves.append(recover(smaller, dense, text, tokenizer, config, work))
    assert curves[0] == curves[1] != curves[2]


def test_the_weight_of_the_teacher_counts(tmp_path) -> None:
    curves = []
    for weight in (0.0, 1.0):
        tokenizer, text, dense, smaller = make_case("classification", tmp_path)
        config = replace(FULL, distillation=DistillationConfig(weight=weight), max_steps=5)
        work = tmp_path / f"weight{weight}"
        curves.append(recover(smaller, dense, text, tokenizer, config, work))
    assert curves[0] != curves[1]


def test_the_teacher_counts_and_may_be_missing(tmp_path) -> None:
    curves = []
    for teacher in (True, False):
        tokenizer, text, dense, smaller = make_case("classification", tmp_path)
        folder = tmp_path / str(teacher)
        curves.append(recover(smaller, dense if teacher else None, text, tokenizer, FULL, folder))
    assert curves[0] != curves[1]


def test_without_peft_the_extra_is_named(tmp_path, monkeypatch) -> None:
    tokenizer, text, dense, smaller = make_case("classification", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"peft.*pip install 'nirvana-deploy\[lora\]'"):
        recover(smaller, dense, text, tokenizer, LORA, tmp_path / "work")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoraConfig(rank=0), "rank must be above 0, got 0"),
        (lambda: LoraConfig(dropout=1.0), "dropout must be at least 0 and below 1, got 1.0"),
        (lambda: RecoveryConfig(max_steps=0), "max_steps must be 1 or more, got 0"),
        (lambda: DistillationConfig(hidden_weight=-1.0), "hidden_weight must be 0 or more"),
        (lambda: DistillationConfig(weight=2.0), "weight must be between 0 and 1, got 2.0"),
        (
            lambda: DistillationConfig(hidden_projection="none"),  # type: ignore[arg-type]
            "hidden_projection must be one of identity, learned, got 'none'",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        make()
