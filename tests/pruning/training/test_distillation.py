import torch

from pruning.training.distillation import Distillation, distillation_loss
from pruning.training.training_configs import DistillationConfig
from tests.pruning.tiny_models import make_tiny, padded_batch
from tests.pruning.training.tiny_tasks import make_headed

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


def test_one_mean_over_several_batches_is_the_sum_of_their_shares() -> None:
    """With `num_items_in_batch`, as the Trainer gives it, rows may be parted at will."""
    student, teacher = make_headed("causal-lm"), make_headed("causal-lm")
    for parameter in student.parameters():
        parameter.data += 0.02
    ids = torch.randint(5, 14, (4, 7), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, 2:5], labels[3, :1] = -100, -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    Distillation(teacher, DistillationConfig(weight=0.5)).attach(student.train())
    whole = student(**batch).loss
    parts = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 1), slice(1, 4))]
    num_items = (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(
        sum(student(**part, num_items_in_batch=num_items).loss for part in parts), whole
    )


def test_tokens_without_a_label_are_not_taught() -> None:
    student, teacher = make_headed("masked-lm"), make_headed("masked-lm")
    for parameter in student.parameters():
        parameter.data += 0.02
    ids = torch.randint(5, 14, (4, 7), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, 2] = ids[:, 2]
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    Distillation(teacher, DistillationConfig(weight=1.0)).attach(student.train())
    logits = [model(input_ids=ids).logits[:, 2] for model in (student, teacher)]
    loss = student(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(loss, distillation_loss(*logits, 2.0))
