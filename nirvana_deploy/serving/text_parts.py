"""What a checkpoint's folder says of text: tokenizer, padding, length, labels and their scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nirvana_deploy.serving.text_model_file import (
    LENGTH_STEP,
    TOKENIZER_FILE,
    ScoreKind,
    open_tokenizer,
)
from pruning.checkpoints.config_file import read_config_file, read_tokenizer_file
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
# The class names that a config without any gets in transformers.
_DEFAULT_LABELS = 2
_DEFAULT_LENGTH = 512
_SCORE_KINDS: dict[str, ScoreKind] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "raw",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextParts:
    """What a text model is made of besides its graph.

    Attributes:
        max_length: in tokens; longer text is cut.
        labels: in the order of the logits.
        score_kind: how scores are made of logits.
    """

    tokenizer_path: Path
    pad_id: int
    pad_token: str
    max_length: int
    labels: tuple[str, ...]
    score_kind: ScoreKind

    @property
    def num_answers(self) -> int:
        """How many labels a text is answered with, each with its score."""
        return 1 if self.score_kind == "softmax" else len(self.labels)


def read_text_parts(checkpoint: Path, max_length: int | None = None) -> TextParts:
    """Read a checkpoint folder; `max_length` is what its graph takes, where that is known.

    Raises NirvanaError for what text needs and is not in the folder.
    """
    # Not above: it takes seconds to import, and only text needs it.
    from pruning.tasks.position_limit import find_usable_length

    tokenizer_path = checkpoint / TOKENIZER_FILE
    if not tokenizer_path.is_file():
        raise NirvanaError(
            f"{tokenizer_path} is missing: text needs a tokenizer. Give the checkpoint's folder, "
            "saved with its (fast) tokenizer, or package the model without text."
        )
    check_text_files(checkpoint)
    config = read_config_file(checkpoint, remedy="Save the checkpoint again.")
    labels = _read_labels(checkpoint / "config.json", config)
    pad_id, pad_token = _find_pad(checkpoint, config)
    limits = [find_usable_length(checkpoint), max_length]
    longest = min((limit for limit in limits if limit is not None), default=_DEFAULT_LENGTH)
    return TextParts(
        tokenizer_path=tokenizer_path,
        pad_id=pad_id,
        pad_token=pad_token,
        max_length=longest // LENGTH_STEP * LENGTH_STEP or longest,
        labels=labels,
        score_kind=_choose_score_kind(checkpoint / "config.json", config, len(labels)),
    )


def check_text_files(folder: Path) -> None:
    """Compare config and tokenizer with what vouches for them, in an export or pruned checkpoint.

    Raises:
        NirvanaError: a file is another.
    """
    from exporters.graphs.export_manifest import check_companions
    from pruning.checkpoints.checkpoint_files import check_files, is_pruned

    check_companions(folder)
    if is_pruned(folder):
        check_files(folder, weights=False)


def _choose_score_kind(path: Path, config: dict[str, object], num_labels: int) -> ScoreKind:
    """Return what the model was trained for; without a problem_type, what transformers trains."""
    given = config.get("problem_type")
    if given is None:
        return "raw" if num_labels == 1 else "softmax"
    if given not in _SCORE_KINDS:
        raise NirvanaError(
            f"{path} has problem_type {given!r}, for which no score is known. Expected one of "
            f"{', '.join(_SCORE_KINDS)}; set it, or package the model without text."
        )
    if _SCORE_KINDS[given] == "softmax" and num_labels == 1:
        raise NirvanaError(
            f"{path} has problem_type {given} and one label, of which the probability is always 1. "
            "Set problem_type to regression for the score itself, or to "
            "multi_label_classification for its sigmoid."
        )
    return _SCORE_KINDS[given]


def _read_labels(path: Path, config: JsonObject) -> tuple[str, ...]:
    """Return the labels' names in the order of the logits; LABEL_0 and so on where none are named.

    Raises NirvanaError where the numbers are not 0, 1, 2, ... without a gap.
    """
    given = config.get("id2label")
    if not given:
        count = config.get("num_labels", config.get("_num_labels"))
        count = count if isinstance(count, int) and count > 0 else _DEFAULT_LABELS
        return tuple(f"LABEL_{number}" for number in range(count))
    try:
        names = {
            int(number): f"LABEL_{int(number)}" if name in (None, "") else str(name)
            for number, name in given.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise NirvanaError(
            f"{path} has the id2label {given!r}; expected label names by number, such as "
            '{"0": "no", "1": "yes"}. Correct it.'
        ) from error
    if sorted(names) != list(range(len(names))) or len(names) < len(given):
        raise NirvanaError(
            f"{path} names the labels {', '.join(map(str, given))} in id2label; expected each "
            f"number from 0 to {len(given) - 1} once, one per logit. Give every logit a name."
        )
    return tuple(names[number] for number in range(len(names)))


def _find_pad(checkpoint: Path, config: dict[str, object]) -> tuple[int, str]:
    """Return id and text of the token that fills up rows.

    The config's id goes first: models that look for the first padding token (to count positions
    from it, or to take the token before it) look for that one. Raises NirvanaError for none.
    """
    tokenizer = open_tokenizer(checkpoint / TOKENIZER_FILE)
    number = config.get("pad_token_id")
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
        token = tokenizer.id_to_token(number)
        if token is not None:
            return number, str(token)
    named = list(_list_pad_tokens(checkpoint, tokenizer))
    for token in named:
        found = tokenizer.token_to_id(token)
        if found is not None:
            return int(found), token
    raise NirvanaError(
        f"{checkpoint} names no pad token that its tokenizer knows (found "
        f"{', '.join(map(repr, named)) or 'none'} in {_TOKENIZER_CONFIG}, {_SPECIAL_TOKENS} and "
        f"{TOKENIZER_FILE}, and pad_token_id {number} in config.json), and rows of a batch must be "
        "padded. Set one and save the tokenizer."
    )


def _list_pad_tokens(checkpoint: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield what the files of a tokenizer call its pad token, the newest place first."""
    settings = read_tokenizer_file(checkpoint / _TOKENIZER_CONFIG)
    special = read_tokenizer_file(checkpoint / _SPECIAL_TOKENS)
    for pad in (settings.get("pad_token"), special.get("pad_token")):
        text = pad.get("content") if isinstance(pad, dict) else pad
        if isinstance(text, str):
            yield text
    if tokenizer.padding is not None:
        yield str(tokenizer.padding["pad_token"])
    added = [
        token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
    ]
    # By name only where no file says which one it is.
    yield from (text for text in added if text.strip("<>[]|").lower() == "pad")
