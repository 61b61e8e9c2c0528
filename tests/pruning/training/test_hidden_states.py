import itertools

import pytest
import torch

from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from pruning.training.distillation import Distillation
from pruning.training.hidden_states import HiddenStateMatch, match_layers
from pruning.training.training_configs import DistillationConfig
from tests.pruning.tiny_models import block_plan, make_tiny, padded_batch

CONFIG = DistillationConfig(weight=0.0, hidden_weight=1.0, num_hidden_layers=2)


def test_layers_are_matched_in_order_with_the_least_error() -> None:
    torch.manual_seed(0)
    for num_teacher, num_student in ((1, 4), (3, 3), (4, 2), (3, 5)):
        errors_TL = torch.rand(num_teacher, num_student)
        ways = itertools.combinations_with_replacement(range(num_student), num_teacher)
        best = min(ways, key=lambda way: sum(float(errors_TL[t, s]) for t, s in enumerate(way)))
        assert match_layers(errors_TL) == list(best)


def make_outputs(num_layers: int, size: int = 4):
    states = tuple(torch.randn(3, 17, size) for _ in range(num_layers + 1))
    return {"hidden_states": states}


def test_the_error_is_relative_and_without_padding() -> None:
    model = make_tiny("bert")
    teacher = make_outputs(2)
    student = {"hidden_states": tuple(1.5 * state for state in teacher["hidden_states"])}
    batch = padded_batch()
    match = HiddenStateMatch(CONFIG, model, model)
    torch.testing.assert_close(match.compute(student, teacher, batch), torch.tensor(0.25))
    for state in student["hidden_states"]:
        state[~batch["attention_mask"].bool()] = 100.0
    torch.testing.assert_close(match.compute(student, teacher, batch), torch.tensor(0.25))


def make_apart(num_layers: int, step: float) -> tuple[torch.Tensor, ...]:
    """The embeddings, then layers that are each a number of their own: 1, 2, ... times `step`."""
    return tuple(torch.full((3, 17, 4), step * number) for number in range(num_layers + 1))


def test_layers_are_spread_evenly_up_to_the_last_and_without_the_embeddings() -> None:
    model = make_tiny("bert")
    match = HiddenStateMatch(CONFIG, model, model)
    # Of a teacher's 1, 2, 3, 4 two are wanted, 2 and 4; the student has 1 and 3.
    student = (torch.zeros(3, 17, 4), torch.ones(3, 17, 4), 3 * torch.ones(3, 17, 4))
    found = match.compute(
        {"hidden_states": student}, {"hidden_states": make_apart(4, 1.0)}, padded_batch()
    )
    torch.testing.assert_close(found, torch.tensor((1 / 4 + 1 / 16) / 2))
    # Its embeddings are what the teacher says, but they are no layer of it.
    student = (2 * torch.ones(3, 17, 4), torch.zeros(3, 17, 4), torch.zeros(3, 17, 4))
    found = match.compute(
        {"hidden_states": student}, {"hidden_states": make_apart(4, 1.0)}, padded_batch()
    )
    torch.testing.assert_close(found, torch.tensor(1.0))


def test_both_stacks_count_and_the_decoder_without_ignored_labels() -> None:
    model = make_tiny("bert")
    match = HiddenStateMatch(CONFIG, model, model)
    labels = torch.full((3, 17), 5)
    labels[:, 9:] = -100
    teacher = {"encoder_hidden_states": make_apart(2, 1.0)}
    teacher["decoder_hidden_states"] = make_apart(2, 1.0)
    student = {"encoder_hidden_states": tuple(1.5 * s for s in make_apart(2, 1.0))}
    decoder = tuple(2.0 * s for s in make_apart(2, 1.0))
    for state in decoder:
        state[labels == -100] = 100.0
    # Teacher 1, 2; encoder 1.5, 3 (errors 1/4, 1/16 at 1.5 for both), decoder 2, 4.
    student["decoder_hidden_states"] = decoder
    encoder_error, decoder_error = (1 / 4 + 1 / 16) / 2, (1.0 + 0.0) / 2
    batch = {"attention_mask": torch.ones(3, 17, dtype=torch.long), "labels": labels}
    found = match.compute(student, teacher, batch)
    torch.testing.assert_close(found, torch.tensor((encoder_error + decoder_error) / 2))
    # Labels of whole rows say nothing of tokens: then the decoder reads the encoder's.
    plain = {**batch, "labels": torch.tensor([0, 1, 2])}
    assert float(match.compute(student, teacher, plain)) > 10


def test_a_learned_projection_starts_as_the_identity() -> None:
    model, states = make_tiny("bert"), {"hidden_states": (torch.ones(2, 3, 32),) * 3}
    config = DistillationConfig(hidden_weight=1.0, hidden_projection="learned")
    match = HiddenStateMatch(config, model, model)
    assert float(match.compute(states, states, {}).detach()) == 0.0


def test_a_config_without_hidden_size_is_refused() -> None:
    class Bare:
        config = object()

    with pytest.raises(NirvanaError, match=r"config of Bare has no hidden_size.*hidden_weight"):
        HiddenStateMatch(CONFIG, Bare(), Bare())


def make_still(name: str):
    """A model that computes the same in training: T5 keeps its dropout as a number."""
    return make_tiny(name, **({"dropout_rate": 0.0} if name == "t5" else {}))


def hidden_loss(student, teacher, config=CONFIG, name="bert") -> torch.Tensor:
    batch = padded_batch()
    if name == "t5":
        batch["labels"] = batch["input_ids"][:, :7].contiguous()
    else:
        batch["labels"] = torch.tensor([0, 1, 2]) if name == "bert" else batch["input_ids"]
    plain = student.eval()(**batch).loss
    teaching = Distillation(teacher, config).attach(student)
    try:
        for module in student.train().modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return student(**batch).loss - plain
    finally:
        teaching.remove()


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_model_agrees_with_itself_and_a_shallower_one_learns(name: str) -> None:
    dense = make_still(name)
    assert float(hidden_loss(make_still(name), dense, name=name).detach().abs()) < 1e-5
    shallower = repack(dense, block_plan(dense))
    loss = hidden_loss(shallower, dense, name=name)
    assert float(loss) > 1e-4
    loss.backward()
    blocks = [p for n, p in shallower.named_parameters() if p.grad is not None and ".0." in n]
    assert any(bool(p.grad.abs().sum() > 0) for p in blocks)


def test_a_learned_projection_maps_another_size_and_is_taken_out_again() -> None:
    student, teacher = make_tiny("bert"), make_tiny("bert", hidden_size=48)
    names = set(student.state_dict())
    message = "teacher's hidden states have 48 numbers, the student's 32.*hidden_projection"
    with pytest.raises(NirvanaError, match=message):
        Distillation(teacher, CONFIG).attach(student)
    config = DistillationConfig(
        weight=0.0, hidden_weight=1.0, num_hidden_layers=2, hidden_projection="learned"
    )
    teaching = Distillation(teacher, config).attach(student)
    (new,) = set(student.state_dict()) - names
    batch = {**padded_batch(), "labels": torch.tensor([0, 1, 2])}
    student.train()(**batch).loss.backward()
    assert student.get_parameter(new).grad.abs().sum() > 0
    teaching.remove()
    assert set(student.state_dict()) == names
    assert not student._forward_pre_hooks
