from dataclasses import replace

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from pruning.errors import MissingExtraError, NirvanaError
from pruning.training.loss_watch import LossWatch
from pruning.training.recovery import recover
from tests.pruning.training.test_recovery import FULL, make_case

CONFIG = replace(FULL, save_steps=4)


def fail_at(model, call: int, rows: tuple[int, ...]) -> None:
    """Have one training batch give logits and a loss that are no numbers."""
    calls = 0

    def spoil(module, args, output):
        nonlocal calls
        calls += module.training
        if calls == call and module.training:
            output["logits"] = output.logits.clone()
            output.logits[list(rows)] = float("nan")
            output["loss"] = output.loss * float("nan")
        return output

    model.register_forward_hook(spoil)


@pytest.mark.filterwarnings("error:Converting a tensor with requires_grad")
def test_a_loss_that_is_no_number_stops_at_once_and_names_its_rows(tmp_path) -> None:
    tokenizer, text, _, model = make_case("classification", tmp_path)
    seen = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    fail_at(model, call=11, rows=(1, 6))
    with pytest.raises(NirvanaError) as caught:
        recover(model, None, text, tokenizer, CONFIG, tmp_path / "work")
    message = str(caught.value)
    said = message.split("training rows ")[1].split(";")[0]
    rows = [int(number) for number in said.split(", ")]
    assert len(rows) == 8
    for row, ids in zip(rows, seen[10].tolist(), strict=True):
        expected = text.train[row]["input_ids"]
        assert ids == expected + [0] * (len(ids) - len(expected))
    assert f"are no numbers in those of row {rows[1]}, {rows[6]}" in message
    assert "The loss became nan in step 11, batch 1 of that step" in message
    kept = tmp_path / "work" / "checkpoint-8"
    assert f"The last good checkpoint is {kept}." in message
    assert kept.is_dir()
    assert len(seen) == 11, "training went on"


def test_without_a_checkpoint_the_message_says_so(tmp_path) -> None:
    tokenizer, text, _, model = make_case("classification", tmp_path)
    fail_at(model, call=2, rows=())
    with pytest.raises(NirvanaError, match=r"nan in step 2, .*No checkpoint was saved before it"):
        recover(model, None, text, tokenizer, CONFIG, tmp_path / "work")
    assert len(model._forward_hooks) == 1, "only the test's own is left"


class Loss(torch.nn.Module):
    def forward(self, loss: float) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(loss)}


def test_what_is_watched_is_a_training_loss_batch_by_batch(tmp_path) -> None:
    model, watch = Loss(), LossWatch()
    args, state = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState()
    watch.on_train_begin(args, state, TrainerControl(), model=model)
    model.eval()(loss=float("nan"))  # validation has its own watch
    model.train()(loss=1.0)
    with pytest.raises(NirvanaError, match="became inf in step 1, batch 2 of that step"):
        model(loss=float("inf"))
    (tmp_path / "checkpoint-1").mkdir()  # made by the step that is told of
    with pytest.raises(NirvanaError, match=r"batch 3 .*No checkpoint was saved before it"):
        model(loss=float("nan"))
    watch.on_train_end(args, state, TrainerControl())
    model(loss=float("nan"))
    assert not model._forward_hooks


def test_broken_weights_are_not_taken_for_a_good_checkpoint(tmp_path) -> None:
    tokenizer, text, _, model = make_case("classification", tmp_path)

    def spoil(grad: torch.Tensor) -> torch.Tensor:
        spoil.calls += 1
        return grad * float("nan") if spoil.calls == 8 else grad

    spoil.calls = 0
    model.classifier.bias.register_hook(spoil)
    message = r"Step 8 left NaN or infinity in \d+ weights, the first is .*checkpoint is .*-4\."
    with pytest.raises(NirvanaError, match=message):
        recover(model, None, text, tokenizer, CONFIG, tmp_path / "work")
    assert [path.name for path in (tmp_path / "work").glob("checkpoint-*")] == ["checkpoint-4"]


def test_reporters_that_are_not_there_are_named(tmp_path, monkeypatch) -> None:
    tokenizer, text, _, model = make_case("classification", tmp_path)
    work = tmp_path / "work"
    with pytest.raises(NirvanaError, match=r"report_to must be none or one of .*got 'nowhere'"):
        recover(model, None, text, tokenizer, replace(CONFIG, report_to="nowhere"), work)
    module = "pruning.training.resumable_training.get_available_reporting_integrations"
    monkeypatch.setattr(module, lambda: [])
    with pytest.raises(MissingExtraError, match=r"pip install 'nirvana-deploy\[tensorboard\]'"):
        recover(model, None, text, tokenizer, replace(CONFIG, report_to="tensorboard"), work)
