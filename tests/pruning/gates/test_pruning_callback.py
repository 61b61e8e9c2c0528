"""Gates in a Trainer of the user's own: what is watched, and what changes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError, NirvanaWarning
from pruning.gates.attach_gates import attach_gates, finish_gates
from pruning.gates.canary import Canary, HeldOutLoss, restore_weights
from pruning.gates.prune_config import BudgetConstraint, CanaryConfig, ScheduleConfig
from pruning.plans.plan import PruningPlan
from pruning.tasks.data_config import DataConfig
from tests.pruning.gates.tiny_training import CONFIG, gate_logits, make_model, make_training
from tests.pruning.tiny_models import make_tiny, padded_batch


def train(folder: Path, **changes):
    model, callback, trainer = make_training(folder, **changes)
    trainer.train()
    return model, callback, trainer


def test_a_plan_comes_out_and_the_repacked_model_is_what_was_trained(tmp_path) -> None:
    model, callback, _ = train(tmp_path)
    batch = padded_batch(vocab_size=14)
    masked = model.eval()(**batch).logits
    names = set(make_model().state_dict())
    plan = finish_gates(model, callback)
    assert set(model.state_dict()) == names
    smaller = repack(model, plan)
    torch.testing.assert_close(smaller(**batch).logits, masked)
    save_pruned(smaller, tmp_path / "out")
    assert torch.equal(load_pruned(tmp_path / "out")(**batch).logits, smaller(**batch).logits)
    assert plan.made_by["budget"] == 0.5


def test_gates_that_still_learn_are_not_taken_out() -> None:
    model = make_model()
    callback = attach_gates(model, CONFIG)
    with pytest.raises(NirvanaError, match=r"gates still learn: 100.0% is kept .* 50.0%"):
        finish_gates(model, callback)


@pytest.mark.parametrize(
    ("task", "accumulated"), [("classification", 2), ("causal-lm", 4), ("seq2seq", 2)]
)
def test_gradients_may_be_accumulated(task: str, accumulated: int, tmp_path) -> None:
    found = []
    for size, steps in ((8, 1), (8 // accumulated, accumulated)):
        model = make_model(task)
        if task == "seq2seq":
            model = make_still_t5(model)
        _, callback, trainer = train(
            tmp_path / str(steps),
            model=model,
            task=task,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=6,
            max_grad_norm=0.0,
            optim="sgd",
        )
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found.append((gate_logits(callback), losses[0], model))
    (one, loss, whole), (other, same_loss, parted) = found
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-3)
    assert same_loss == pytest.approx(loss, rel=1e-4)
    pairs = zip(whole.parameters(), parted.parameters(), strict=True)
    for left, right in pairs:
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def make_still_t5(model):
    for module in model.modules():
        if hasattr(module, "dropout"):
            if isinstance(module.dropout, float):
                module.dropout = 0.0
            else:
                module.dropout.p = 0.0
    return model


def gate_gradients(model, callback, batch, **autocast) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16, **autocast):
        loss = model(**batch).loss
    loss.backward()
    found = {n: p.grad.clone() for n, p in callback.registry.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_gradient_checkpointing_changes_no_gradient_of_a_gate(name: str, reentrant: bool) -> None:
    model = make_tiny(name, **({"dropout_rate": 0.0} if name == "t5" else {}))
    if name == "bert":
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.config.attention_probs_dropout_prob = 0.0
    batch = padded_batch()
    batch["labels"] = torch.tensor([0, 1, 2]) if name == "bert" else batch["input_ids"]
    callback = attach_gates(model.train(), CONFIG)
    plain = gate_gradients(model, callback, batch, enabled=False)
    assert all(bool(grad.abs().sum() > 0) for n, grad in plain.items() if "gate_N" in n)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    checkpointed = gate_gradients(model, callback, batch, enabled=False)
    for key, grad in plain.items():
        torch.testing.assert_close(checkpointed[key], grad)


def test_mixed_precision_moves_gates_as_full_precision_does(tmp_path) -> None:
    model = make_model()
    callback = attach_gates(model.train(), CONFIG)
    batch = {**padded_batch(vocab_size=14), "labels": torch.tensor([0, 1, 2])}
    full = torch.cat(
        [g.flatten() for g in gate_gradients(model, callback, batch, enabled=False).values()]
    )
    half = torch.cat([g.flatten() for g in gate_gradients(model, callback, batch).values()])
    assert half.dtype == torch.float32
    assert float((half - full).norm() / full.norm()) < 0.05  # bf16 has 8 bits
    _, callback, _ = train(tmp_path, bf16=True)
    assert float(callback.registry.kept_density()) <= 0.5
    assert all(p.dtype == torch.float32 for p in callback.registry.parameters())


def read_tensorboard(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[float]] = {}
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    return found


def test_reporters_get_the_gates_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    _, _, trainer = train(tmp_path, report_to="tensorboard")
    board = read_tensorboard(tmp_path / "board")
    history = trainer.state.log_history  # of training and of validation
    for name in ("target_kept_fraction", "kept_fraction", "undecided_fraction"):
        assert all(name in entry for entry in history)
        reported = board[f"train/{name}"]
        assert reported == pytest.approx([e[name] for e in history], rel=1e-5)


def test_given_as_a_callback_the_history_has_the_gates(tmp_path) -> None:
    _, callback, trainer = train(tmp_path, joins=False)
    assert callback.registry.frozen
    assert all("undecided_fraction" in e for e in trainer.state.log_history if "loss" in e)


def test_a_collapse_is_named_once_and_kept(tmp_path) -> None:
    hasty = replace(CONFIG, gate_learning_rate=50.0)
    with pytest.warns(NirvanaWarning, match=r"Step 1 closed every gate of .*0.mlp.*lower gate_lea"):
        _, callback, trainer = train(tmp_path, config=hasty)
    closed = {e["sub_block"] for e in callback.collapse.to_json()}
    kept = callback.registry.kept_layers()
    assert closed == {
        name
        for number, layer in enumerate(kept)
        for name, units in (
            (f"{number}.attention", layer.kept_heads),
            (f"{number}.mlp", layer.kept_neurons),
        )
        if not units
    }
    logged = [e["num_collapsed_sub_blocks"] for e in trainer.state.log_history if "loss" in e]
    assert logged[-1] == len(closed)


STRICT = CanaryConfig(max_loss_factor=1.0, max_loss_rise=0.5)


def spoil(callback, model, step: int) -> None:
    """Have the model lose what it knows in one step."""
    moved = callback.on_step_end

    def on_step_end(args, state, control, **kwargs):
        if state.global_step == step:
            with torch.no_grad():
                model.classifier.weight.mul_(1e4)
        return moved(args, state, control, **kwargs)

    callback.on_step_end = on_step_end


def test_the_canary_brings_the_last_good_stage_back(tmp_path) -> None:
    config = replace(CONFIG, canary=STRICT, schedule=ScheduleConfig(num_stages=4))
    model, callback, trainer = make_training(
        tmp_path,
        config=config,
        max_steps=40,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
    )
    spoil(callback, model, step=12)
    message = (
        r"rose from [\d.]+ to [\d.]+ in pruning stage 3 \(step 12, .*max_loss_rise 0.5 .*those of "
        r"step 8 again \(stage 2, .*last_good.checkpoint-8.*Prune more gently"
    )
    with pytest.raises(NirvanaError, match=message):
        trainer.train()
    assert [loss.step for loss in callback.canary.losses] == [1, 4, 8]
    good = tmp_path / "trainer" / "last_good" / "checkpoint-8"
    assert not (tmp_path / "trainer" / "checkpoint-8").exists(), "the limit had deleted it"
    saved = load_file(good / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    plan = PruningPlan.load(good / "plan.json")
    assert plan.layers == callback.registry.kept_layers()
    assert plan.made_by["rolled_back_to_step"] == 8
    trainer.evaluate()
    back = trainer.state.log_history[-1]["eval_loss"]
    assert back == pytest.approx(callback.canary.last_good.loss, rel=1e-5)


def test_a_canary_at_rest_changes_nothing(tmp_path) -> None:
    loose = replace(CONFIG, canary=CanaryConfig(max_loss_factor=100.0))
    (_, watched, _), (_, plain, _) = (
        train(tmp_path / name, config=config) for name, config in (("a", loose), ("b", CONFIG))
    )
    assert [loss.stage for loss in watched.canary.losses] == [0, 1, 2, 3]
    one, other = gate_logits(watched), gate_logits(plain)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loss_that_is_no_number_is_never_good() -> None:
    canary = Canary(CanaryConfig(max_loss_factor=2.0, max_loss_rise=1.0))

    def admits(loss: float) -> bool:
        return canary.admits(HeldOutLoss(stage=1, step=1, loss=loss, kept_fraction=1.0))

    assert not admits(float("nan"))
    assert admits(0.5)
    assert admits(1.5), "thrice as much, but a rise of no more than 1"
    assert admits(3.0), "a rise of 1.5, but no more than twice as much"
    assert not admits(6.1)
    assert not admits(float("inf"))
    assert canary.last_good.loss == 3.0
    resumed = Canary(canary.config)
    resumed.restore(json.loads(json.dumps(canary.to_json())))
    assert resumed.losses == canary.losses


def test_a_checkpoint_without_whole_weights_is_not_rolled_back_to(tmp_path) -> None:
    with pytest.raises(NirvanaError, match=r"Cannot roll back: .* holds no model\*.safetensors"):
        restore_weights(make_model(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_loss_factor": 0.9}, "max_loss_factor must be 1 or more, got 0.9"),
        ({"max_loss_rise": -1.0}, "max_loss_rise must be 0 or more, got -1.0"),
    ],
)
def test_impossible_canaries_are_refused(changes, message) -> None:
    with pytest.raises(NirvanaError, match=message):
        CanaryConfig(**changes)


def test_another_recipe_does_not_resume(tmp_path) -> None:
    saves = {"save_strategy": "steps", "save_steps": 8}
    _, whole, _ = train(tmp_path, **saves)
    shutil.rmtree(tmp_path / "trainer" / "checkpoint-16")
    other = replace(
        CONFIG, budget=0.4, objective=BudgetConstraint(quadratic=50.0), schedule=ScheduleConfig()
    )
    _, _, trainer = make_training(tmp_path, config=other, learning_rate=1e-2, **saves)
    message = (
        r"checkpoint-8 was made by another recipe: prune.budget was 0.5, now 0.4; "
        r"prune.objective.quadratic was 100.0, now 50.0; prune.schedule.num_stages was 3, now 4; "
        r"prune.schedule.prune_fraction was 0.5, now 0.4; "
        r"training.learning_rate was 0.001, now 0.01"
    )
    with pytest.raises(NirvanaError, match=message):
        trainer.train(resume_from_checkpoint=True)
    free = replace(CONFIG, report_to="tensorboard", canary=CanaryConfig(max_loss_factor=9.0))
    _, resumed, trainer = make_training(tmp_path, config=free, **saves)
    trainer.train(resume_from_checkpoint=True)
    one, again = gate_logits(whole), gate_logits(resumed)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert resumed.undecided_fraction == whole.undecided_fraction


def test_other_data_does_not_resume(tmp_path) -> None:
    saves = {"save_strategy": "steps", "save_steps": 8, "max_steps": 8}
    _, callback, trainer = make_training(tmp_path, joins=False, **saves)
    callback._guard._recipe = {**callback._guard._recipe, "data": {"max_length": 16}}
    trainer.train()
    recipe = json.loads((tmp_path / "trainer" / "checkpoint-8" / "recipe.json").read_text())
    assert recipe["data"] == {"max_length": 16}
    _, callback, trainer = make_training(tmp_path, **saves)
    with pytest.raises(NirvanaError, match=r'recipe: data was {"max_length": 16}, now unset'):
        trainer.train(resume_from_checkpoint=True)
    assert "data" in attach_gates(make_model(), CONFIG, data=DataConfig())._guard._recipe


def test_a_checkpoint_without_gates_does_not_resume(tmp_path) -> None:
    saves = {"save_strategy": "steps", "save_steps": 8}
    train(tmp_path, **saves)
    (tmp_path / "trainer" / "checkpoint-16" / "recipe.json").unlink()
    _, _, trainer = make_training(tmp_path, **saves)
    with pytest.raises(NirvanaError, match=r"Expected .*recipe.json to resume from"):
        trainer.train(resume_from_checkpoint=True)


def test_fp16_without_clipping_and_data_parallel_are_refused(tmp_path) -> None:
    _, callback, trainer = make_training(tmp_path)
    trainer.args.fp16, trainer.args.max_grad_norm = True, 0.0
    with pytest.raises(NirvanaError, match=r"Under fp16 gradients are scaled .*max_grad_norm"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.args._n_gpu = 2
    with pytest.raises(NirvanaError, match=r"One process drives 2 GPUs .*accelerate launch"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
