import pytest
import torch

from pruning.training.loss_watch import passes_count, settle_loss_scale
from tests.pruning.tiny_models import ENCODERS, GENERATORS, make_tiny, padded_batch


@pytest.mark.parametrize("name", [*ENCODERS, *GENERATORS])
def test_what_is_said_of_a_loss_is_what_it_does(name: str) -> None:
    model = make_tiny(name)
    settle_loss_scale(model)
    batch = padded_batch()
    batch["labels"] = torch.tensor([0, 1, 2]) if name in ENCODERS else batch["input_ids"]
    num_items = 5 * batch["labels"].numel()
    with torch.no_grad():
        losses = [
            float(model(**batch, **more).loss) for more in ({}, {"num_items_in_batch": num_items})
        ]
    assert model.accepts_loss_kwargs is (losses[0] > 2 * losses[1])


def test_a_class_without_source_is_divided_by_the_trainer() -> None:
    made: dict = {}
    exec("class Made:\n    def forward(self, **kwargs): pass\n", made)
    assert not passes_count(made["Made"])
