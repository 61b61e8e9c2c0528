"""Gives the free dimensions of a graph sizes, so that every shape in it is a list of numbers.

Primes that divide no fixed dimension: whatever a Reshape merges can then be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_FIRST = 11


def size_inputs(graph: ir.Graph) -> dict[ir.Value, tuple[int, ...]]:
    """Return a shape for each graph input that has one.

    A name of digits is a number (transformers' exporter writes such), `a + b` a sum, and a total
    is what is past plus what is new. Dimensions without a name are told apart by their axis.
    """
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    names = [name for value in inputs for name in _list_names(value) if not name.isdigit()]
    sizes = _Sizes(_list_primes(_list_fixed(graph, inputs)), tuple(dict.fromkeys(names)))
    shapes = {}
    for value in inputs:
        if value.shape is not None:
            dims = tuple(value.shape)
            shapes[value] = tuple(
                dim if isinstance(dim, int) else sizes.of(_name_dim(dim, value, axis))
                for axis, dim in enumerate(dims)
            )
    return shapes


class _Sizes:
    def __init__(self, primes: Iterator[int], names: tuple[str, ...]) -> None:
        self._primes = primes
        self._past = [name for name in names if "past" in name and "+" not in name]
        self._new = [n for n in names if "seq" in n and not any(w in n for w in _NOT_NEW)]
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        if name.isdigit():
            return int(name)
        if "+" in name:
            return sum(self.of(part.strip()) for part in name.split("+"))
        if name not in self._known:
            if "total" in name and self._past and self._new:
                self._known[name] = self.of(self._past[0]) + self.of(self._new[0])
            else:
                self._known[name] = next(self._primes)
        return self._known[name]


_NOT_NEW = ("past", "total", "encoder", "+")


def _list_names(value: ir.Value) -> list[str]:
    dims = tuple(value.shape) if value.shape is not None else ()
    return [str(dim.value) for dim in dims if not isinstance(dim, int) and dim.value is not None]


def _name_dim(dim: ir.SymbolicDim, value: ir.Value, axis: int) -> str:
    if dim.value is not None:
        return str(dim.value)
    assert value.shape is not None
    return "batch" if axis == 0 else f"axis {axis} of {len(value.shape)}"


def _list_fixed(graph: ir.Graph, inputs: list[ir.Value]) -> set[int]:
    shapes = [value.shape for value in (*inputs, *graph.initializers.values())]
    dims = {dim for shape in shapes if shape is not None for dim in shape}
    return {dim for dim in dims if isinstance(dim, int) and dim > 1}


def _list_primes(fixed: set[int]) -> Iterator[int]:
    number = _FIRST
    while True:
        prime = all(number % smaller for smaller in range(2, int(number**0.5) + 1))
        if prime and not any(dim % number == 0 for dim in fixed):
            yield number
        number += 2
