from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, set_seed

from pruning.cutting.wiring_inference import read_model
from pruning.gates.gate_kinds import GateKind, HardConcrete, SoftSigmoid, StraightThrough
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_callback import PruningCallback
from pruning.plans.cost import MacCost, dense_cost, plan_cost
from pruning.plans.plan import PruningPlan
from pruning.tasks.text_data import load_text
from pruning.training.resumable_training import make_trainer, train_resumably
from tests.pruning.training.tiny_tasks import make_headed, make_tokenizer, write_rows

KINDS = {
    "straight-through": StraightThrough(),
    "hard-concrete": HardConcrete(),
    "soft-sigmoid": SoftSigmoid(),
}


class KilledError(Exception):
    """What ends a training in the middle."""


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KilledError


def train(kind: GateKind, folder: Path, out_dir: Path, kill_at: int = -1):
    """12 steps, in 4 of which the gates learn; checkpoints after 2, 4, ..."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    text = load_text(write_rows(folder / "rows", "classification"), tokenizer)
    config = PruneConfig(
        gate_kind=kind,
        num_epochs=4,
        batch_size=8,
        gate_learning_rate=0.5,
        save_steps=2,
        bf16=False,
    )
    set_seed(3)
    model = make_headed("classification")
    registry = GateRegistry.attach(model, MacCost(16), config.gate_kind, config.units)
    callbacks = [PruningCallback(registry, config), KillAt(kill_at)]
    trainer = make_trainer(model, text, tokenizer, config, out_dir, callbacks, "prune")
    train_resumably(trainer)
    return model, registry, trainer


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return request.param, folder, *train(request.param, folder, folder / "out")


# In the middle of learning, and after the masks were frozen.
@pytest.mark.parametrize("kill_at", [3, 7])
def test_resumed_is_uninterrupted_to_the_bit(whole, kill_at: int, tmp_path: Path) -> None:
    kind, folder, model, registry, _ = whole
    with pytest.raises(KilledError):
        train(kind, folder, tmp_path, kill_at)
    resumed, its_registry, its_trainer = train(kind, folder, tmp_path)
    assert its_trainer.state.log_history[-1]["step"] == 12
    state, came = model.state_dict(), resumed.state_dict()
    assert set(state) == set(came)
    assert [name for name in state if not torch.equal(state[name], came[name])] == []
    assert bool(its_registry.frozen)
    assert its_registry.kept_layers() == registry.kept_layers()
    gates = [name for name in state if "gate" in name and name.endswith((".logit", ".scale"))]
    assert len(gates) == 2 * len(list(registry.gate_tensors())), "gates are state of the model"


def test_the_budget_is_met_and_nothing_is_undecided(whole) -> None:
    kind, _, model, registry, trainer = whole
    layers, cost = registry.kept_layers(), MacCost(16)
    plan = PruningPlan(dims=read_model(model).dims, layers=layers, config_hash="")
    left = 0.5 * dense_cost(plan.dims, cost) - plan_cost(plan, cost)
    assert 0 <= left < 8 * cost.neuron_cost(plan.dims.layers[0])
    assert registry.undecided_fraction() == 0.0
    logged = [entry for entry in trainer.state.log_history if "kept_fraction" in entry]
    assert logged[-1]["undecided_before_projection"] >= 0
    scales = torch.cat([gates.scale for gates in registry.gate_tensors()])
    assert bool((scales == 1).all()) == (kind == StraightThrough())
