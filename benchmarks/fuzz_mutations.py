"""Seeded damage: bytes of any file, values of JSON, fields of an ONNX graph."""

from __future__ import annotations

import json
import random
from typing import Any

_TOKENS = (
    b"{",
    b"[",
    b'"',
    b"\xff",
    b"\0",
    b"NaN",
    b"1e999",
    b"-",
    b": &a [*a]",
    b"\n\t",
    b"9" * 400,
)
_DEEP = "[" * 5000 + "]" * 5000
_HUGE = "9" * 5000
_VALUES: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    "../x",
    "\0",
    [],
    {},
    [[]],
    [None, 1],
    -1,
    0,
    1,
    1.5,
    10**6,
    2**63,
    10**30,
    -(10**18),
    1e308,
    "\ud800",
    "a" * 5000,
)


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return other bytes: a few changed, or a span cut, doubled or put in."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 3))):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 2, 8, 100)))
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:end] = draw.choice(_TOKENS)
        elif kind == 4:
            data[at:end] = draw.randbytes(end - at)
        else:
            del data[at:]
    return bytes(data)


def mutate_json(content: bytes, draw: random.Random) -> bytes:
    """Return JSON of which values are others, or gone, or there twice; seldom no JSON at all."""
    if draw.random() < 0.25:
        return mutate_bytes(content, draw)
    data = json.loads(content)
    for _ in range(draw.choice((1, 1, 2))):
        places = list(_list_places(data))
        if not places:
            break
        holder, key = draw.choice(places)
        _change(holder, key, draw)
    text = json.dumps(data, ensure_ascii=draw.random() < 0.9)
    for mark, raw in (('"<deep>"', _DEEP), ('"<huge>"', _HUGE), ('"<nan>"', "NaN")):
        text = text.replace(mark, raw)
    if draw.random() < 0.05:
        text = text.replace("{", '{"twice": 1, "twice": 2, ', 1)
    return text.encode(errors="surrogatepass")


def mutate_yaml(content: bytes, draw: random.Random) -> bytes:
    """Return a recipe with another value, line or token."""
    lines = content.decode().splitlines()
    kind = draw.randrange(5)
    at = draw.randrange(len(lines))
    if kind == 0:
        return mutate_bytes(content, draw)
    if kind == 1:
        values = (".inf", ".nan", "-5", "1" * 5000, _DEEP, "*a", "&a [*a]", "!!int x", "1e400", "~")
        lines[at] = lines[at].split(":")[0] + ": " + draw.choice((*values, "[]", "{}", '"\\ud800"'))
    elif kind == 2:
        lines.insert(at, draw.choice(lines))
    elif kind == 3:
        lines[at] = draw.choice(("\t", "  ", "- ", "? ", "<<: ", "%")) + lines[at]
    else:
        del lines[at]
    return "\n".join(lines).encode()


def mutate_onnx(content: bytes, draw: random.Random) -> bytes:
    """Return a graph with another size, type, weight, edge, attribute, node or opset."""
    import onnx

    if draw.random() < 0.3:
        return mutate_bytes(content, draw)
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    node, tensor = draw.choice(graph.node), draw.choice(graph.initializer)
    kind = draw.randrange(10)
    if kind == 0 and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice((0, 1, 3, -1, 2**40))
    elif kind == 1:
        tensor.data_type = draw.choice((0, 1, 6, 7, 8, 9, 10, 16, 99))
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    elif kind == 3 and tensor.raw_data:
        tensor.raw_data = bytes(draw.randbytes(len(tensor.raw_data)))
    elif kind == 4 and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice(graph.initializer).name
    elif kind == 5 and node.attribute:
        attribute = draw.choice(node.attribute)
        attribute.i, attribute.type = draw.choice((-9, 0, 3, 2**60)), draw.choice((1, 2, 3, 7))
    elif kind == 6:
        node.op_type = draw.choice(
            ("Add", "Reshape", "If", "Attention", "Nothing", "Split", "Gemm")
        )
    elif kind == 7:
        del node.input[draw.randrange(max(1, len(node.input))) :]
    elif kind == 8:
        graph.node.remove(node)
    else:
        model.opset_import[0].version = draw.choice((0, 1, 12, 17, 99))
    return model.SerializeToString()


def _list_places(data: Any) -> Any:
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if data else ()
    for key, value in pairs:
        yield data, key
        if isinstance(value, (dict, list)):
            yield from _list_places(value)


def _change(holder: Any, key: Any, draw: random.Random) -> None:
    value, kind = holder[key], draw.randrange(6)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice(("other", "../x", "", "\0"))] = holder.pop(key)
    elif kind == 2 and isinstance(value, list):
        holder[key] = draw.choice(
            (value[::-1], value * 2, [*value, 10**6], list(range(60_000, 0, -1)))
        )
    elif kind == 3 and isinstance(value, (int, float)):
        holder[key] = value + draw.choice((1, -1, 0.5, 10**9))
    elif kind == 4:
        holder[key] = draw.choice(("<deep>", "<huge>", "<nan>"))
    else:
        holder[key] = draw.choice(_VALUES)
