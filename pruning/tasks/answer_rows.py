"""Rows of an extractive question answering: where in the context the answer stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset

from pruning.errors import NirvanaError
from pruning.tasks.class_rows import require_offsets
from pruning.tasks.data_config import DataConfig
from pruning.tasks.data_splits import Splits, require_text
from pruning.tasks.task import EncodedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ANSWER = 0  # the token that stands for "not here", as in SQuAD 2


def encode_answers(
    splits: Splits, tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> EncodedRows:
    """Tokenise question and context, and find the first answer's first and last token.

    A context beyond max_length is cut at its end. A row without an answer, or whose answer was cut
    off, points at its first token.

    Raises:
        NirvanaError: the tokenizer cannot say where tokens stand, `answers` is not as in SQuAD, an
            answer is not where it says, or a question leaves no room for its context.
    """
    require_offsets(tokenizer, "question-answering")
    return EncodedRows(
        train=_encode(splits.train, tokenizer, config),
        validation=_encode(splits.validation, tokenizer, config),
    )


def _encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Dataset:
    def encode(row: dict[str, Any]) -> dict[str, object]:
        question, context = row[config.question_column], row[config.context_column]
        require_text([question], config.question_column)
        require_text([context], config.context_column)
        answer = _first_answer(row[config.answers_column], context, config.answers_column)
        encoded = _tokenise(tokenizer, question, context, config.max_length)
        start, end = _find_tokens(encoded, answer)
        return {**encoded, "start_positions": start, "end_positions": end}

    return rows.map(encode, remove_columns=rows.column_names, load_from_cache_file=False)


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, question: str, context: str, max_length: int
) -> Any:
    try:
        return tokenizer(question, context, truncation="only_second", max_length=max_length)
    except Exception as error:
        raise NirvanaError(
            f"The question {question[:60]!r} leaves no room for its context in {max_length} "
            "tokens. Raise data.max_length."
        ) from error


def _first_answer(answers: object, context: str, column: str) -> tuple[int, int] | None:
    """Return the first answer's first and last character, None where there is no answer."""
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= set(answers):
        raise NirvanaError(
            f"The column {column!r} must hold {{text, answer_start}} as in SQuAD, found "
            f"{str(answers)[:80]}. Set data.answers_column."
        )
    texts, starts = answers["text"], answers["answer_start"]
    texts, starts = (v if isinstance(v, list) else [v] for v in (texts, starts))
    if not texts or not texts[0] or not starts or starts[0] is None:
        return None
    text, start = texts[0], starts[0]
    if context[start : start + len(text)] != text:
        raise NirvanaError(
            f"The answer {text!r} should stand at character {start} of its context, which has "
            f"{context[max(start, 0) : start + len(text)]!r} there. Mend answer_start (it counts "
            "characters, from 0)."
        )
    return start, start + len(text) - 1


def _find_tokens(encoded: object, answer: tuple[int, int] | None) -> tuple[int, int]:
    if answer is None:
        return NO_ANSWER, NO_ANSWER
    first, last = (_token_at(encoded, character) for character in answer)
    return (NO_ANSWER, NO_ANSWER) if first is None or last is None else (first, last)


def _token_at(encoded: Any, character: int) -> int | None:
    token: int | None = encoded.char_to_token(character, sequence_index=1)
    return token
