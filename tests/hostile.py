"""Files that are whole and well-formed, with checksums that fit, and hold something else.

What is changed is the content behind the container: JSON, lines of JSON, tables, XML, safetensors,
archives of tensors. Where the format has a checksum, it is made anew.
"""

import base64
import csv
import io
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from safetensors.torch import _SIZE, load, save
from torch import Tensor

from circuits.circuit import _checksum as checksum_of_circuit
from circuits.search.log import _check as check_of_line
from patching.files.tensors import checksum

NAMES = (
    *("../../x", "/etc/passwd", "\x1b[31mred", "\u202egnp", "", " ", "é", "a" * 3000, "\n"),
    *("</script><img src=x onerror=alert(1)>", "__class__", "os:system", "a0.h0.q", "m999999999"),
    *("a\u0660.h0", "embed", "logits", "NaN", "-1", "os", "--trust-remote-code"),
)
VALUES = (
    *(None, True, False, 0, -1, 1, 7, 0.5, -0.0, 1e308, -1e308, 10**18, 10**400, -(10**9)),
    *([], {}, [[]], [1], {"a": 1}, [None], "x", [[1, 2], [3]], ["a", 1, None]),
    *NAMES,
)
Sealed = bool
"""Whether no reader may take what came out for sound."""


def mutate(content: bytes, name: str, rng: random.Random) -> tuple[bytes, str, Sealed]:
    """Another content of the same form, what was done, and whether it must be refused."""
    kind = FORMS.get(Path(name).suffix)
    if kind is None:
        raise KeyError(name)
    for _ in range(20):
        changed, what, wrong = kind(content, rng)
        if changed != content:
            return changed, what, wrong
    raise AssertionError(f"{name} stays as it is")


def of_json(content: bytes, rng: random.Random) -> tuple[bytes, str, Sealed]:
    value = json.loads(content)
    sealed = isinstance(value, dict) and "checksum" in value
    if sealed:
        value.pop("checksum")
    changed, what = other(value, rng)
    if sealed and isinstance(changed, dict):
        changed["checksum"] = checksum_of_circuit(changed)
    return json.dumps(changed).encode(), what, False


def of_lines(content: bytes, rng: random.Random) -> tuple[bytes, str, Sealed]:
    """One line, or their order; a line of a log gets a check that fits."""
    lines = [json.loads(line) for line in content.splitlines()]
    i = rng.randrange(len(lines))
    if isinstance(lines[i], dict) and "check" in lines[i]:
        lines[i], what, wrong = of_log(lines[i], rng)
    else:
        lines[i], what = other(lines[i], rng)
        wrong = False
    return "".join(json.dumps(line) + "\n" for line in lines).encode(), what, wrong


def of_log(row: dict, rng: random.Random) -> tuple[object, str, Sealed]:
    """Other values of a circuit, encoded as they should be."""
    n = len(base64.b64decode(row["values"])) // 8
    values = rng.choice(
        (
            b"",
            b"1234567",
            np.ones(n + 1).tobytes(),
            np.ones(1).tobytes(),
            np.full(n, np.nan).tobytes(),
        )
    )
    row = {**row, "values": base64.b64encode(values).decode()}
    row["check"] = check_of_line(row["circuit"], row["values"])
    return row, f"{len(values)} bytes of values", True


def of_table(content: bytes, rng: random.Random) -> tuple[bytes, str, Sealed]:
    rows = [*csv.reader(io.StringIO(content.decode()))]
    row = rng.choice(rows)
    way = rng.choice(("cell", "cell", "cell", "row", "column", "twice"))
    if way == "cell" and row:
        row[rng.randrange(len(row))] = str(rng.choice((*VALUES, [5, -7], {"prompt": 3})))
    elif way == "row":
        rows.remove(row)
    elif way == "twice":
        rows.insert(0, list(row))
    else:
        at = rng.randrange(len(rows[0]))
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode(), way, False


def of_xml(content: bytes, rng: random.Random) -> tuple[bytes, str, Sealed]:
    root = ElementTree.fromstring(content)
    parents = [parent for parent in root.iter() if len(parent)]
    parent = rng.choice(parents)
    child = rng.choice([*parent])
    way = rng.choice(("without", "twice", "text", "attribute", "attribute"))
    if way == "without":
        parent.remove(child)
    elif way == "twice":
        parent.append(child)
    elif way == "text":
        child.text = _xml_text(rng)
    elif child.attrib:
        child.set(rng.choice([*child.attrib]), _xml_text(rng))
    return ElementTree.tostring(root), f"{way} {child.tag}", False


def _xml_text(rng: random.Random) -> str:
    text = str(rng.choice(VALUES))
    return "".join(sign for sign in text if sign >= " ")


def of_safetensors(content: bytes, rng: random.Random) -> tuple[bytes, str, Sealed]:
    (length,) = struct.unpack("<Q", content[:8])
    said = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    tensors, said = load(content), {k: v for k, v in said.items() if k != "checksum"}
    if rng.random() < 0.35:
        said, what = other_texts(said, rng)
        wrong = False
    else:
        tensors, what, wrong = other_tensors(tensors, rng)
    whole = {**said, "checksum": checksum(tensors, said)}
    apart = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    return save(apart, whole), what, wrong


def other_texts(said: dict[str, str], rng: random.Random) -> tuple[dict[str, str], str]:
    """One text of the metadata changed, or what stands in it as JSON."""
    name = rng.choice([*said])
    if said[name][:1] in "[{" and rng.random() < 0.8:
        value, what = other(json.loads(said[name]), rng)
        return {**said, name: json.dumps(value)}, f"{name}: {what}"
    if rng.random() < 0.3:
        return {key: text for key, text in said.items() if key != name}, f"without {name}"
    text = rng.choice(("[]", "3", "null", "{", "x", *NAMES)).encode("utf-8", "replace").decode()
    return {**said, name: text}, f"{name}: {text[:30]!r}"


def other_tensors(
    tensors: dict[str, Tensor], rng: random.Random
) -> tuple[dict[str, Tensor], str, Sealed]:
    """One tensor gone, more, renamed, of another shape or type, or without numbers."""
    name = rng.choice([*tensors])
    way = rng.choice([*WAYS])
    changed = WAYS[way](tensors[name], rng)
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    if way == "gone":
        return rest, f"without {name}", True
    if way == "renamed":
        return {**rest, f"{name}x": changed}, f"{name} renamed", True
    if way == "more":
        return {**tensors, rng.choice(NAMES).strip() or "y": changed}, "one more", True
    same = changed.shape == tensors[name].shape and changed.dtype == tensors[name].dtype
    wrong = not same or bool(changed.isnan().any())
    return {**rest, name: changed}, f"{name} {way}: {list(changed.shape)}", wrong


def _cut(x: Tensor, rng: random.Random) -> Tensor:
    return x[: len(x) // 2] if x.ndim else x[None]


def _holed(x: Tensor, rng: random.Random) -> Tensor:
    changed = x.double().clone().reshape(-1)
    if len(changed):
        changed[rng.randrange(len(changed))] = rng.choice((float("nan"), float("inf")))
    return changed.reshape(x.shape).to(x.dtype)


COMPLEX = torch.complex64 if torch.complex64 in _SIZE else torch.float16  # safetensors' oldest
WAYS: dict[str, Callable[[Tensor, random.Random], Tensor]] = {
    "gone": lambda x, rng: x,
    "renamed": lambda x, rng: x,
    "more": lambda x, rng: x,
    "flat": lambda x, rng: x.reshape(-1),
    "with an axis": lambda x, rng: x[None],
    "turned": lambda x, rng: x.transpose(0, -1) if x.ndim > 1 else x[None],
    "cut": _cut,
    "empty": lambda x, rng: x.reshape(-1)[:0],
    "whole numbers": lambda x, rng: x.long(),
    "half": lambda x, rng: x.half(),
    "truths": lambda x, rng: x.bool(),
    "complex": lambda x, rng: x.to(COMPLEX),
    "holed": _holed,
    "other numbers": lambda x, rng: x * 3 + 1,
}


def of_pt(content: bytes, rng: random.Random) -> tuple[bytes, str, Sealed]:
    value = torch.load(io.BytesIO(content), weights_only=True)
    changed, what = other(value, rng)
    out = io.BytesIO()
    torch.save(changed, out)
    return out.getvalue(), what, False


def of_npz(content: bytes, rng: random.Random) -> tuple[bytes, str, Sealed]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    changed, what, wrong = other_tensors(tensors, rng)
    out = io.BytesIO()
    np.savez(out, **{name or "y": tensor.numpy() for name, tensor in changed.items()})
    return out.getvalue(), what, wrong


def other(value: object, rng: random.Random) -> tuple[object, str]:
    """A value of JSON, or one with tensors, with one thing in it changed; and what that was."""
    places = [*_places(value)]
    if not places or rng.random() < 0.05:
        return rng.choice(VALUES), "something else"
    holder, key = rng.choice(places)
    shown = f"at {str(key)[:40]!r}"
    way = rng.choice(("gone", "other", "other", "near", "near", "twice", "more", "renamed"))
    was = holder[key]  # pyright: ignore
    if way == "gone":
        del holder[key]  # pyright: ignore
    elif way == "near":
        holder[key] = _near(was, rng)  # pyright: ignore
    elif way == "twice" and isinstance(holder, list):
        holder.insert(key, was)
    elif way == "more" and isinstance(holder, dict):
        holder[rng.choice(NAMES)] = rng.choice(VALUES)
    elif way == "renamed" and isinstance(holder, dict):
        holder[rng.choice(NAMES)] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)  # pyright: ignore
    return value, f"{way} {shown}"


def _near(was: object, rng: random.Random) -> object:
    """Something like it: a number beside it, a longer text, a list turned round, a tensor bent."""
    if isinstance(was, bool):
        return not was
    if isinstance(was, int | float):
        return rng.choice((was + 1, -was - 1, was * 10**6, str(was), float(was), [was]))
    if isinstance(was, str):
        return was + rng.choice(NAMES)
    if isinstance(was, list):
        return [was[::-1], was * 2, was[1:], dict.fromkeys(map(str, was))][rng.randrange(4)]
    if isinstance(was, Tensor):
        return WAYS[rng.choice([*WAYS])](was, rng)
    return [was]


def _places(value: object) -> list[tuple[object, object]]:
    """Everything in a value that can be put in another's place."""
    found: list[tuple[object, object]] = []
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        found += [(value, key), *_places(value[key])]  # pyright: ignore
    return found


FORMS: dict[str, Callable[[bytes, random.Random], tuple[bytes, str, Sealed]]] = {
    ".json": of_json,
    ".jsonl": of_lines,
    ".csv": of_table,
    ".graphml": of_xml,
    ".gexf": of_xml,
    ".safetensors": of_safetensors,
    ".pt": of_pt,
    ".npz": of_npz,
}
