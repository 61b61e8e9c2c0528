import torch

from pruning.training.distillation import Distillation, distillation_loss
from pruning.training.distillation_config import DistillationConfig
from tests.pruning.tiny_models import make_tiny, padded_batch

LABELS = torch.tensor([0, 1, 2])


def test_the_loss_is_the_scaled_divergence() -> None:
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    expected = 9 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, 3.0), expected)
    assert distillation_loss(teacher, teacher, 3.0).abs() < 1e-6


def test_training_mixes_the_teacher_in_and_evaluation_does_not() -> None:
    student, teacher = make_tiny("bert"), make_tiny("roberta")
    teacher.config.pad_token_id = 0
    student.config.hidden_dropout_prob = 0.0
    batch = {**padded_batch(), "labels": LABELS}
    plain = student(**batch)
    config = DistillationConfig(weight=0.75, temperature=2.0)
    handle = Distillation(teacher, config).attach(student)
    assert torch.equal(student(**batch).loss, plain.loss)
    for module in student.modules():  # training mode without its randomness
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    student.train()
    soft = distillation_loss(plain.logits, teacher(**padded_batch()).logits, 2.0)
    torch.testing.assert_close(student(**batch).loss, 0.25 * plain.loss + 0.75 * soft)
    handle.remove()
    torch.testing.assert_close(student(**batch).loss, plain.loss)


def test_the_teacher_learns_nothing() -> None:
    student, teacher = make_tiny("bert"), make_tiny("bert")
    Distillation(teacher, DistillationConfig()).attach(student)
    student.train()(**padded_batch(), labels=LABELS).loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training
