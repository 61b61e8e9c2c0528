"""Seeded damage: bytes of any file, values of JSON, headers of weights, fields of an ONNX graph."""

from __future__ import annotations

import copy
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


def mutate_plan(content: bytes, draw: random.Random) -> bytes:
    """Return a plan that keeps other units, in half of the cases as a plan may."""
    if draw.random() < 0.5:
        return mutate_json(content, draw)
    data = json.loads(content)
    for _ in range(draw.choice((1, 2, 4))):
        layer = draw.choice(data["layers"])
        name = draw.choice(("kept_heads", "kept_neurons"))
        kept = layer[name] or [0]
        size = "num_heads" if name == "kept_heads" else "intermediate_size"
        most = data["dims"]["stacks"][0][size]
        kind = draw.randrange(5)
        if kind == 0:
            layer[name] = sorted({*kept, draw.randrange(most)})
        elif kind == 1:
            layer[name] = kept[: draw.randrange(len(kept) + 1)]
        elif kind == 2:
            layer[name] = sorted(draw.sample(range(most), draw.randrange(1, most)))
        elif kind == 3:
            layer[name] = draw.choice((None, [], [most], [-1], list(range(most))))
        else:
            layer.update(kept_heads=None, kept_neurons=None, dropped=True)
    return json.dumps(data).encode()


def mutate_safetensors(content: bytes, draw: random.Random) -> bytes:
    """Return weights with another header: names, types, shapes, offsets, or its length."""
    if draw.random() < 0.3:
        return mutate_bytes(content, draw)
    end = 8 + int.from_bytes(content[:8], "little")
    header = mutate_json(content[8:end].rstrip(), draw)
    length = draw.choice((len(header),) * 8 + (0, 2**40, len(header) - 1))
    return length.to_bytes(8, "little") + header + content[end:]


def mutate_onnx(content: bytes, draw: random.Random) -> bytes:
    """Return a graph with another size, type, weight, edge, attribute, node or opset."""
    import onnx

    if draw.random() < 0.25:
        return mutate_bytes(content, draw)
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    kind = draw.randrange(16)
    if kind < 5:
        _change_tensor(draw.choice(graph.initializer), kind, draw)
    elif kind < 9:
        _change_edges(graph, kind - 5, draw)
    elif kind < 12:
        _change_node(draw.choice(graph.node), kind - 9, draw)
    elif kind == 12:
        graph.node.remove(draw.choice(graph.node))
    elif kind == 13:
        node = graph.node.pop(draw.randrange(len(graph.node)))
        graph.node.insert(draw.randrange(len(graph.node) + 1), node)
    elif kind == 14:
        value = draw.choice((*graph.input, *graph.output))
        shape = value.type.tensor_type.shape
        if draw.random() < 0.5 or not shape.dim:
            value.type.tensor_type.elem_type = draw.choice((0, 1, 6, 9, 10, 11, 99))
        elif draw.random() < 0.5:
            del shape.dim[draw.randrange(len(shape.dim)) :]
        else:
            draw.choice(shape.dim).dim_value = draw.choice((0, 1, 3, -1, 2**40))
    else:
        model.opset_import[0].version = draw.choice((0, 1, 12, 13, 17, 99))
    return model.SerializeToString()


def _change_tensor(tensor: Any, kind: int, draw: random.Random) -> None:
    if tensor.external_data and draw.random() < 0.7:
        entry = draw.choice(tensor.external_data)
        entry.value = draw.choice(
            ("", "-1", "x", "0", "64", str(2**40), "../model.onnx", "/dev/zero")
        )
    elif kind == 0 and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice((0, 1, 3, -1, 2**40))
    elif kind == 1:
        tensor.data_type = draw.choice((0, 1, 6, 7, 8, 9, 10, 16, 21, 99))
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    elif kind == 3 and tensor.raw_data:
        tensor.raw_data = draw.randbytes(len(tensor.raw_data))
    elif tensor.raw_data:  # one value
        at = draw.randrange(0, len(tensor.raw_data), 4)
        data = bytearray(tensor.raw_data)
        data[at : at + 4] = draw.choice((b"\0\0\x80?", b"\0\0\xc0\x7f", b"\0\0 A", b"\1\0\0\0"))
        tensor.raw_data = bytes(data)[: len(tensor.raw_data)]


def _change_edges(graph: Any, kind: int, draw: random.Random) -> None:
    node = draw.choice(graph.node)
    if not node.input:
        return
    at = draw.randrange(len(node.input))
    if kind == 0:
        node.input[at] = draw.choice(graph.initializer).name
    elif kind == 1:
        node.input[at] = draw.choice([name for each in graph.node for name in each.output])
    elif kind == 2:
        del node.input[at:]
    else:
        node.input[at] = draw.choice(("", "nothing", node.output[0], graph.input[0].name))


def _change_node(node: Any, kind: int, draw: random.Random) -> None:
    if kind == 0 and node.attribute:
        attribute = draw.choice(node.attribute)
        attribute.i, attribute.type = draw.choice((-9, 0, 3, 2**60)), draw.choice((1, 2, 3, 7))
    elif kind == 1 and node.attribute:
        attribute = draw.choice(node.attribute)
        if attribute.ints:
            attribute.ints[:] = draw.choice(([], [99], [0, 0], list(attribute.ints)[::-1]))
        else:
            attribute.i, attribute.f = draw.choice((-1, 0, 1, 2)), draw.choice((0.0, 1e30, 0.5))
    else:
        node.op_type = draw.choice(
            ("Add", "Mul", "Reshape", "If", "Attention", "Nothing", "Split", "Gemm", "Transpose")
        )


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
        holder[key] = copy.deepcopy(draw.choice(_VALUES))
