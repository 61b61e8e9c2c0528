"""Documents as tokens, in groups of one length: what makes batches that need no padding."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pruning.calibration.calibration_config import CalibrationConfig
from pruning.calibration.calibration_documents import Document
from pruning.errors import NirvanaError
from pruning.tasks.language_rows import find_end, find_lead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STEP = 8  # rows are shortened to a multiple of it, so that many have the same length
_AT_ONCE = 64  # documents that are tokenised together
_SURPLUS = 4  # times the tokens that are needed, to cut a language model's chunks from
_LETTERS = 8  # of a document, a token of the sequence: a half of them is about as many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence.

    Attributes:
        special: 1 where the tokenizer added a token of its own, else 0.
        target_ids: what is to be written, for an encoder-decoder.
        label: the name of the document's class.
    """

    input_ids: list[int]
    special: list[int]
    target_ids: list[int]
    label: str | None


def cut_chunks(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: CalibrationConfig,
    luck: random.Random,
) -> list[list[int]]:
    """Return `num_sequences` chunks of `sequence_length` tokens, which do not overlap.

    Documents in random order, each closed by the end-of-text token, are cut at a random phase.
    Where the tokenizer begins a text with a token of its own, so does every chunk.

    Raises:
        NirvanaError: there are too few tokens, or the tokenizer has no token that ends a text.
    """
    end, lead = find_end(tokenizer), find_lead(tokenizer)
    size = config.sequence_length - len(lead)
    needed = config.num_sequences * size
    stream: list[int] = []
    for part in _in_parts(_shuffle(documents, luck)):
        texts = [document.text for document in part]
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            stream += [*ids, end]
        if len(stream) >= _SURPLUS * needed:
            break
    if len(stream) < needed:
        raise NirvanaError(_describe_shortage(len(stream), len(documents), size, config))
    phase = luck.randint(0, min(size - 1, len(stream) - needed))
    starts = range(phase, len(stream) - size + 1, size)
    return [lead + stream[i : i + size] for i in luck.sample(starts, config.num_sequences)]


def group_rows(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: CalibrationConfig,
    luck: random.Random,
    *,
    writes: bool,
) -> list[list[Row]]:
    """Return `num_sequences` rows in groups of `batch_size`, those of a group equally long.

    Each row is a random document: its first tokens, at most `sequence_length`, shortened to the
    next multiple of 8 unless it is full. Its last special tokens stay. Groups are smaller only
    where the lengths do not work out otherwise. With `writes` rows have targets, shortened alike.

    Raises:
        NirvanaError: there are too few documents.
    """
    waiting: dict[tuple[int, int], list[Row]] = {}
    groups: list[list[Row]] = []
    num_left, num_read = config.num_sequences, 0
    for row in _read_rows(_shuffle(documents, luck), tokenizer, config, writes):
        num_read += 1
        alike = waiting.setdefault((len(row.input_ids), len(row.target_ids)), [])
        alike.append(row)
        wanted = min(config.batch_size, num_left)
        if len(alike) < wanted:
            continue
        groups.append(alike[:wanted])
        del alike[:wanted]
        num_left -= wanted
        if num_left == 0:
            return groups
    if num_read < config.num_sequences:
        raise NirvanaError(
            f"Calibration needs {config.num_sequences} sequences, and {config.source!r} has "
            f"{num_read} documents that give one. {_advise(num_read)}"
        )
    for alike in sorted(waiting.values(), key=len, reverse=True):
        if num_left > 0 and alike:
            groups.append(alike[:num_left])
            num_left -= len(groups[-1])
    return groups


def _read_rows(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: CalibrationConfig,
    writes: bool,
) -> Iterator[Row]:
    """Yield a row for each document that has tokens, and with `writes` a target that has some."""
    for part in _in_parts(documents):
        pairs = [_split(document, config.sequence_length, writes) for document in part]
        inputs = _encode(tokenizer, config, text=[text for text, _ in pairs])
        targets: list[tuple[list[int], list[int]]] = [([], [])] * len(pairs)
        if writes:
            targets = _encode(tokenizer, config, text_target=[target for _, target in pairs])
        for document, (ids, special), (target_ids, added) in zip(
            part, inputs, targets, strict=True
        ):
            if all(special) or (writes and all(added)):
                continue
            yield Row(input_ids=ids, special=special, target_ids=target_ids, label=document.label)


def _encode(
    tokenizer: PreTrainedTokenizerBase, config: CalibrationConfig, **texts: list[str]
) -> list[tuple[list[int], list[int]]]:
    """Return tokens, and which of them are special, of each text."""
    encoded = tokenizer(
        **texts,
        truncation=True,
        max_length=config.sequence_length,
        return_special_tokens_mask=True,
    )
    pairs = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [_shorten(ids, special, config.sequence_length) for ids, special in pairs]


def _shorten(ids: list[int], special: list[int], full: int) -> tuple[list[int], list[int]]:
    """Leave tokens out before the last special ones, down to a multiple of 8."""
    if len(ids) < _STEP or len(ids) == full:
        return ids, special
    num_last = next((i for i, added in enumerate(reversed(special)) if not added), 0)
    kept = len(ids) // _STEP * _STEP - num_last
    start = len(ids) - num_last
    return ids[:kept] + ids[start:], special[:kept] + special[start:]


def _split(document: Document, sequence_length: int, writes: bool) -> tuple[str, str]:
    """Return the text to read and the one to write; without a target the text is both halves."""
    if not writes:
        return document.text, ""
    if document.target is not None:
        return document.text, document.target
    text = document.text[: _LETTERS * sequence_length]
    middle = text.find(" ", len(text) // 2)
    middle = len(text) // 2 if middle < 0 else middle
    return text[:middle], text[middle:].strip()


def _shuffle(documents: Sequence[Document], luck: random.Random) -> list[Document]:
    return luck.sample(documents, len(documents))


def _in_parts(documents: Sequence[Document]) -> Iterator[list[Document]]:
    remaining = iter(documents)
    while part := list(islice(remaining, _AT_ONCE)):
        yield part


def _describe_shortage(
    num_tokens: int, num_documents: int, size: int, config: CalibrationConfig
) -> str:
    return (
        f"Calibration needs {config.num_sequences} sequences of {config.sequence_length} tokens, "
        f"{config.num_sequences * size} tokens of text, and {config.source!r} has {num_tokens} in "
        f"{num_documents} documents. {_advise(num_tokens // size)}"
    )


def _advise(num_possible: int) -> str:
    if num_possible == 0:
        return "Lower calibration.sequence_length, or give more text."
    return f"Lower calibration.num_sequences to at most {num_possible}, or give more text."
