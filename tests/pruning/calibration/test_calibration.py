import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pruning.calibration.calibration import Calibration, draw_calibration, select_draw
from pruning.calibration.calibration_documents import Document
from pruning.errors import NirvanaError
from pruning.scoring.model_passes import read_loss
from tests.pruning.oneshot.tiny_calibration import (
    make_byte_tokenizer,
    make_config,
    make_documents,
)
from tests.pruning.tiny_models import make_tiny
from tests.pruning.tiny_text import CLASSES
from tests.pruning.training.tiny_tasks import WORDS, make_headed, make_tokenizer

KINDS = {  # of model: its task, and a type with it
    "classification": "bert",
    "token-classification": "bert",
    "question-answering": "roberta",
    "masked-lm": "bert",
    "causal-lm": "llama",
    "causal-lm gpt2": "gpt2",
    "seq2seq": "t5",
    "seq2seq bart": "bart",
    "classification bart": "bart",
}


def draw_batches(*args):
    return draw_calibration(*args).batches


def draw(kind: str, tmp_path: Path, number: int = 0, **changes) -> Calibration:
    model = make_headed(kind.partition(" ")[0], KINDS[kind])
    return draw_calibration(
        model, make_tokenizer(tmp_path), make_documents(), make_config(**changes), number
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_batch_has_padding_and_the_model_takes_it(kind: str, tmp_path: Path) -> None:
    found = draw(kind, tmp_path)
    tokenizer = make_tokenizer(tmp_path)
    model = make_headed(kind.partition(" ")[0], KINDS[kind])
    assert found.num_sequences == 12
    assert found.num_tokens == sum(int(b["attention_mask"].sum()) for b in found.batches)
    for batch in found.batches:
        ids = batch["input_ids"]
        assert 1 <= len(ids) <= 4
        assert ids.shape[1] <= 20
        assert torch.equal(batch["attention_mask"], torch.ones_like(ids))
        assert not (ids == tokenizer.pad_token_id).any()
        if "seq2seq" in kind:
            assert not (batch["labels"] == tokenizer.pad_token_id).any()
        assert read_loss(model, batch).isfinite()
    assert sum(len(b["input_ids"]) == 4 for b in found.batches) >= 2  # not each row for itself


@pytest.mark.parametrize("kind", KINDS)
def test_seed_and_draw_decide_everything(kind: str, tmp_path: Path) -> None:
    first, again = draw(kind, tmp_path), draw(kind, tmp_path)
    assert first.labels == again.labels
    assert first.sha256 == again.sha256
    for one, other in zip(first.batches, again.batches, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    hashes = {draw(kind, tmp_path, number).sha256 for number in range(3)}
    assert len({*hashes, draw(kind, tmp_path, seed=1).sha256}) == 4


def test_encoder_rows_are_whole_beginnings_of_documents(tmp_path: Path) -> None:
    tokenizer, found = make_tokenizer(tmp_path), draw("classification", tmp_path)
    texts = {document.text for document in make_documents()}
    begun = set()
    for batch in found.batches:
        length = batch["input_ids"].shape[1]
        assert length in (*range(3, 8), 8, 16, 20)
        for ids in batch["input_ids"].tolist():
            assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
            words = tokenizer.decode(ids[1:-1])
            matches = {text for text in texts if text.startswith(words)}
            assert matches
            begun |= matches
            longest = max(len(tokenizer(text)["input_ids"]) for text in matches)
            assert length == 20 or longest - length < 8  # dropped: at most to the multiple of 8
    assert len(begun) >= 12  # no document twice


def test_causal_chunks_are_cut_from_the_joined_text() -> None:
    tokenizer = make_byte_tokenizer()
    model = make_tiny("llama", vocab_size=len(tokenizer))
    documents = [Document(f"<{n}> " + "abc" * 7) for n in range(100, 140)]
    config = make_config(num_sequences=30, sequence_length=16)
    rows = torch.cat([b["input_ids"] for b in draw_batches(model, tokenizer, documents, config, 0)])
    assert rows.shape == (30, 16)
    ends = 0
    for ids in rows.tolist():
        pieces = tokenizer.decode(ids).split("</s>")
        ends += len(pieces) - 1
        for piece, whole in zip(pieces, [True] * len(pieces), strict=True):
            assert whole
            assert any(piece in document.text for document in documents)
        assert all(any(d.text.endswith(p) for d in documents) for p in pieces[:-1])
        assert all(any(d.text.startswith(p) for d in documents) for p in pieces[1:])
    assert ends > 5
    marks = [m for ids in rows.tolist() for m in tokenizer.decode(ids).split("<") if ">" in m]
    names = [m[:3] for m in marks if m[3:4] == ">"]
    assert len(names) == len(set(names))  # chunks do not overlap


def test_all_text_can_be_used_and_not_more() -> None:
    tokenizer = make_byte_tokenizer()
    model = make_tiny("llama", vocab_size=len(tokenizer))
    documents = [Document("a" * 39)] * 4  # 160 tokens with their ends
    config = make_config(num_sequences=10, sequence_length=16)
    assert (
        len(
            torch.cat(
                [b["input_ids"] for b in draw_batches(model, tokenizer, documents, config, 0)]
            )
        )
        == 10
    )
    with pytest.raises(
        NirvanaError,
        match=r"11 sequences of 16 tokens, 176 tokens.*has 160 in 4 documents.*to at most 10",
    ):
        more = make_config(num_sequences=11, sequence_length=16)
        draw_batches(model, tokenizer, documents, more, 0)
    with pytest.raises(NirvanaError, match=r"has 40 in 1 documents. Lower .*sequence_length"):
        draw_batches(model, tokenizer, documents[:1], make_config(sequence_length=64), 0)


def test_a_chunk_begins_as_the_tokenizer_begins_a_text(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.bos_token = "[CLS]"
    batches = draw_batches(make_tiny("llama"), tokenizer, make_documents(), make_config(), 0)
    rows = torch.cat([batch["input_ids"] for batch in batches])
    assert rows.shape == (12, 20)
    assert set(rows[:, 0].tolist()) == {tokenizer.cls_token_id}
    assert tokenizer.cls_token_id not in rows[:, 1:]


def test_given_classes_are_numbered_as_the_model_does(tmp_path: Path) -> None:
    names = [*sorted(CLASSES)[::-1], "other", "more"]
    label2id = {name: number for number, name in enumerate(names)}
    id2label = dict(enumerate(names))
    model = make_headed("classification", label2id=label2id, id2label=id2label)
    tokenizer = make_tokenizer(tmp_path)
    found = draw_calibration(model, tokenizer, make_documents(), make_config(), 0)
    assert found.labels == "given"
    for batch in found.batches:
        for ids, label in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            assert tokenizer.decode(ids[1:2]) in CLASSES[names[label]].split()


def test_a_column_of_classes_that_was_named_must_be_the_models(tmp_path: Path) -> None:
    tokenizer, named = make_tokenizer(tmp_path), make_config(label_column="class")
    names = [*(name.upper() for name in sorted(CLASSES)[::-1]), "other", "more"]
    ids = {"label2id": {n: i for i, n in enumerate(names)}, "id2label": dict(enumerate(names))}
    model = make_headed("classification", **ids)
    found = draw_calibration(model, tokenizer, make_documents(), named, 0)
    assert found.labels == "given"
    for batch in found.batches:
        for row, label in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            assert tokenizer.decode(row[1:2]) in CLASSES[names[label].lower()].split()
    with pytest.raises(NirvanaError, match=r"does not name its .* classes"):
        draw_calibration(make_headed("classification"), tokenizer, make_documents(), named, 0)


def test_predictions_are_the_labels_where_none_fit(tmp_path: Path) -> None:
    model = make_headed("classification").train()  # with dropout, which must not count
    tokenizer = make_tokenizer(tmp_path)
    for documents in (make_documents(labels=False), make_documents()):
        found = draw_calibration(model, tokenizer, documents, make_config(), 0)
        assert found.labels == "predicted"
        assert model.training
        assert all(p.requires_grad for p in model.parameters())
        quiet = make_headed("classification")
        for batch in found.batches:
            expected = quiet(input_ids=batch["input_ids"]).logits.argmax(-1)
            assert torch.equal(batch["labels"], expected)


def test_tags_and_spans_are_predicted(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    found = draw("token-classification", tmp_path)
    assert found.labels == "predicted"
    model = make_headed("token-classification")
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
    for batch in found.batches:
        expected = model(input_ids=batch["input_ids"]).logits.argmax(-1)
        expected[torch.isin(batch["input_ids"], special)] = -100
        assert torch.equal(batch["labels"], expected)
    found = draw("question-answering", tmp_path)
    assert found.labels == "predicted"
    answering = make_headed("question-answering", "roberta")
    for batch in found.batches:
        output = answering(input_ids=batch["input_ids"])
        assert torch.equal(batch["start_positions"], output.start_logits.argmax(-1))
        assert torch.equal(batch["end_positions"], output.end_logits.argmax(-1))


def test_a_masked_model_guesses_what_was_there(tmp_path: Path) -> None:
    tokenizer, num_hidden, num_tokens = make_tokenizer(tmp_path), 0, 0
    found = draw("masked-lm", tmp_path, num_sequences=36)
    texts = [document.text for document in make_documents()]
    assert found.labels == "text"
    for batch in found.batches:
        ids, labels = batch["input_ids"], batch["labels"]
        whole = torch.where(labels == -100, ids, labels)
        assert not (whole == tokenizer.mask_token_id).any()
        for row in whole.tolist():
            assert any(text.startswith(tokenizer.decode(row[1:-1])) for text in texts)
        assert ((labels != -100).sum(-1) >= 1).all()
        num_hidden += int((labels != -100).sum())
        num_tokens += ids[:, 1:-1].numel()
    assert 0.1 < num_hidden / num_tokens < 0.25


def test_targets_are_the_given_ones_or_the_rest(tmp_path: Path) -> None:
    tokenizer, model = make_tokenizer(tmp_path), make_headed("seq2seq")
    pairs = {" ".join(WORDS[n : n + 4]): " ".join(WORDS[n : n + 2]) for n in range(5)}
    given = [Document(text, target) for text, target in pairs.items()]
    batches = draw_batches(model, tokenizer, given, make_config(num_sequences=5), 0)
    for batch in batches:
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            text, target = (tokenizer.decode(t, skip_special_tokens=True) for t in (ids, labels))
            assert pairs[text] == target
    texts = [document.text for document in make_documents(longest=10)]
    halves = [Document(text) for text in texts]
    for batch in draw_batches(model, tokenizer, halves, make_config(), 0):
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            first, rest = (tokenizer.decode(t, skip_special_tokens=True) for t in (ids, labels))
            assert any(t.startswith(first) and rest in t[len(first) :] for t in texts)
            assert first
            assert rest


def test_batches_are_saved_exactly(tmp_path: Path) -> None:
    found = draw("causal-lm", tmp_path, num_sequences=31, batch_size=3)  # 11 batches: 10 after 9
    found.save(tmp_path / "calibration.safetensors")
    again = Calibration.load(tmp_path / "calibration.safetensors")
    assert (again.labels, again.sha256) == (found.labels, found.sha256)
    assert len(again.batches) == 11
    for one, other in zip(found.batches, again.batches, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_hash_is_of_shapes_and_tokens() -> None:
    tokens = torch.arange(6).reshape(2, 3)
    found = Calibration(batches=({"input_ids": tokens},), labels="text")
    plain = b"(2, 3)" + b"".join(n.to_bytes(8, "little") for n in range(6))
    assert found.sha256 == hashlib.sha256(plain).hexdigest()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(NirvanaError, match="Cannot read the calibration"):
        Calibration.load(path)
    path.write_text("no tensors")
    with pytest.raises(NirvanaError, match="Cannot read the calibration"):
        Calibration.load(path)
    save_file({"0.input_ids": torch.ones(1, 2)}, path)
    with pytest.raises(NirvanaError, match="found another safetensors file"):
        Calibration.load(path)
    about = {"format": "nirvana-calibration-1", "labels": "text", "sha256": "0"}
    save_file({"0.attention_mask": torch.ones(1, 2)}, path, metadata=about)
    with pytest.raises(NirvanaError, match=r"Batch 0 .* no input_ids, only \['attention_mask'\]"):
        Calibration.load(path)
    save_file({"0.input_ids": torch.ones(1, 2)}, path, metadata=about)
    with pytest.raises(NirvanaError, match="not those that were saved"):
        Calibration.load(path)


def test_the_draw_with_the_least_measure_is_kept() -> None:
    assert select_draw([3.0, 1.0, 2.0, 1.0]) == 1
    with pytest.raises(NirvanaError, match=r"Expected a number .* got \[\]"):
        select_draw([])
    with pytest.raises(NirvanaError, match=r"got \[nan"):
        select_draw([float("nan")])


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    tokenizer, documents, config = make_tokenizer(tmp_path), make_documents(), make_config()

    def refuse(model, message: str, tokenizer=tokenizer, documents=documents, **changes) -> None:
        with pytest.raises(NirvanaError, match=message):
            draw_batches(model, tokenizer, documents, make_config(**changes), 0)

    refuse(make_tiny("vit"), "ViTForImageClassification takes pixel_values")
    refuse(make_tiny("bert").base_model, "BertModel has none of these")
    refuse(
        make_tiny("bert"), r"bert here has 80 positions. Set cal.*at most 80", sequence_length=81
    )
    refuse(make_tiny("roberta"), "at most 78", sequence_length=79)  # two are the padding's
    refuse(make_headed("classification", num_labels=1), "num_labels 1")
    refuse(
        make_headed("classification", problem_type="multi_label_classification"),
        r"'multi_label_classification'\. Cut it by a plan .*--plan FILE",
    )
    few = r"needs 12 sequences, and .* has 5 documents that give one. Lower .* to at most 5"
    refuse(make_tiny("bert"), few, documents=[*documents[:5], Document("")])
    refuse(make_tiny("llama"), "no token that ends a text", make_byte_tokenizer(eos_token=None))
    refuse(make_headed("masked-lm"), "a tokenizer with a mask token", make_byte_tokenizer())
    assert draw_batches(make_tiny("bert"), tokenizer, documents, config, 0)
