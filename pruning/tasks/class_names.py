"""The one place that numbers classes: by name, whatever order a split, a data set or a model has.

A wrong order is the worst kind of mistake: nothing fails, and every answer is another one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pruning.errors import NirvanaError
from pruning.tasks.task import IGNORED

_UNNAMED = re.compile(r"LABEL_(\d+)")
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9]\d*")
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNames:
    """Number the classes of a data set as a model does.

    Attributes:
        labels: The names, in the order of their numbers.
        numbers: The number of each name as the data write it.
    """

    labels: tuple[str, ...]
    numbers: Mapping[str, int]


def read_name(value: object, declared: tuple[str, ...] | None, place: str) -> str:
    """Return the name of a class.

    Args:
        value: A name, an integer, or with `declared` the index of a name.
        declared: The names that the data set itself gives its integers; None where it gives none.
        place: Column and row, for the message.

    Raises:
        NirvanaError: the value names no class: it is missing, a list, a fraction or out of range.
    """
    if declared is not None and isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(declared):
            return declared[value]
        raise NirvanaError(
            f"{place} has {value}, which is none of the {len(declared)} classes that the data set "
            "declares; -1 usually means unlabeled. Remove such rows."
        )
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)  # what some tools make of a column of integers with gaps
    if isinstance(value, int) and value == IGNORED and not isinstance(value, bool):
        raise NirvanaError(
            f"{place} has {IGNORED}, by which losses are told to leave a label out. Expected a "
            "class name or an integer: give that row its class, or remove it."
        )
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise NirvanaError(
        f"{place} has {value!r}. Expected a class name or an integer in every row: give that row "
        "its class, or remove it."
    )


def number_classes(
    train: Collection[str],
    validation: Collection[str],
    *,
    declared: tuple[str, ...] | None = None,
    model: tuple[str, ...] | None = None,
    column: str,
) -> ClassNames:
    """Number the classes among the names that training and validation rows use.

    Without `model`, in the data set's declared order, else sorted: integers by size, names by
    letter. With `model`, as that does: names that are equal but for case and surrounding blanks are
    one class, where that is unambiguous.

    Args:
        model: The class names of a model that is fine-tuned already.

    Raises:
        NirvanaError: there is one class only, validation has one that training lacks, two names
            differ by case or blanks alone, or the model's classes are not those of the data.
    """
    names = tuple(declared) if declared is not None else tuple(sort_names(set(train)))
    _refuse_variants((*names, *validation), column)
    unknown = sorted(set(validation) - set(names))
    if unknown:
        raise NirvanaError(
            f"Validation has the class {unknown[0]!r} in column {column!r}, which no training row "
            f"has. Training has {list_first(names, 30)}. Add training rows of that class, or "
            "remove it from validation."
        )
    if model is not None:
        return _number_as(model, names, declared is not None, {*train, *validation}, column)
    if len(set(train)) < 2:
        raise NirvanaError(
            f"The column {column!r} has the class {next(iter(train), None)!r} in every training "
            "row. Expected two classes or more: a model that tells nothing apart cannot be trained."
        )
    return ClassNames(labels=names, numbers={name: i for i, name in enumerate(names)})


def are_unnamed(model: Iterable[str]) -> bool:
    """Return whether a model's classes are LABEL_0, LABEL_1, ...: transformers' for no names."""
    return all(_UNNAMED.fullmatch(name) for name in model)


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort class names; integers by size where all are integers."""
    listed = list(names)
    if all(_CANONICAL_INTEGER.fullmatch(name) for name in listed):
        return sorted(listed, key=int)
    return sorted(listed)


def list_first(names: Iterable[str], limit: int = _SHOWN) -> str:
    """Write the first few names."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (" ..." if len(listed) > limit else "")


def _refuse_variants(names: Iterable[str], column: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_fold(name), name)
        if other != name:
            raise NirvanaError(
                f"The column {column!r} has the classes {other!r} and {name!r}, which differ by "
                "case or blanks alone. Write one class in one way."
            )


def _fold(name: str) -> str:
    return " ".join(name.split()).casefold()


def _number_as(
    model: tuple[str, ...],
    names: tuple[str, ...],
    are_declared: bool,
    used: Collection[str],
    column: str,
) -> ClassNames:
    """Number the data's classes as a model does."""
    count = len(model)
    own = {name: number for number, name in enumerate(model)}
    if set(used) <= set(own):
        return ClassNames(labels=model, numbers=own)
    if all(_CANONICAL_INTEGER.fullmatch(name) and 0 <= int(name) < count for name in used):
        both = sort_names(set(used) & set(own))
        if both:  # such as 0 to 4 for stars that the model calls 1 to 5
            raise NirvanaError(
                f"The column {column!r} has the classes {list_first(sort_names(used))}, and the "
                f"model calls its own {list_first(model, 30)}: {both[0]!r} is a name and a number "
                "of two classes. Write the model's names into the column."
            )
        return ClassNames(labels=model, numbers={str(number): number for number in range(count)})
    if are_unnamed(model):
        if are_declared and len(names) == count:
            return ClassNames(labels=names, numbers={name: i for i, name in enumerate(names)})
        raise NirvanaError(
            f"The model does not name its {count} classes ({list_first(model)}), so that those of "
            f"column {column!r}, {list_first(sort_names(used))}, cannot be matched with them. Set "
            "id2label and label2id in the model's config.json, or give the data's classes as the "
            "model's numbers."
        )
    integers = sort_names(name for name in used if _CANONICAL_INTEGER.fullmatch(name))
    if len(integers) == len(used) and not set(used) & set(own):  # such as 1 to 3
        wrong = integers[-1] if int(integers[-1]) >= count else integers[0]
        raise NirvanaError(
            f"The column {column!r} has the class {wrong}, and the model numbers its {count} "
            f"classes from 0 to {count - 1} ({list_first(model, 30)}). Write the model's names or "
            "its numbers into the column."
        )
    folded: dict[str, list[int]] = {}
    for number, name in enumerate(model):
        folded.setdefault(_fold(name), []).append(number)
    matches = {name: folded.get(_fold(name), []) for name in used}
    lost = sort_names(name for name, found in matches.items() if len(found) != 1)
    if lost:
        raise NirvanaError(
            f"The data has the class {lost[0]!r} in column {column!r}, which the model does not "
            f"have: it tells apart {list_first(model, 30)}. Rename the class, or fine-tune the "
            "model on this data first (without fine_tuned)."
        )
    return ClassNames(labels=model, numbers={name: found[0] for name, found in matches.items()})
