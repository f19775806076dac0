"""Ways to damage a file: what disks, editors, other programs and bad people do to it."""

import random
import re
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TEXT = re.compile(rb'"[^"\\\n]{0,60}"')
_PAIR = re.compile(rb'"[^"\\\n]{0,60}"\s*:\s*(?:"[^"\\\n]*"|-?[\d.]+|true|false|null)')
_NAMES = (
    *("../../x", "/etc/passwd", "C:\\x", "a\x00b", "\x1b[31mred", "\u202egnp", "\ud83d\ude00"),
    *("", " ", "é", "a" * 5000, "</script><img src=x onerror=alert(1)>", "'; DROP", "${x}", "%s"),
    *("__class__", "__proto__", "NaN", "a0.h0.q", "m999999999", "a\u0660.h0", "embed", "\n"),
)
_VALUES = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" + b"0" * 400, b"9" * 5000),
    *(b"null", b"true", b"[]", b"{}", b'""', b'"x"', b"-1", b"0", b"0.5", b"1e-400", b"-0.0"),
    *(b"9223372036854775808", b"[[1]]", b'{"a": 1}', b"99999999", b"123456789123"),
)


def flip(content: bytes, rng: random.Random) -> bytes:
    """One to three bytes become others."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3)) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_bit(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def drop(content: bytes, rng: random.Random) -> bytes:
    """A part is missing."""
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randint(1, 60) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A part is there twice."""
    start = rng.randrange(len(content) + 1)
    end = start + rng.randint(1, 200)
    return content[:end] + content[start:]


def insert(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.randint(1, 20)) + content[start:]


def nest(content: bytes, rng: random.Random) -> bytes:
    """100,000 brackets or elements, alone or in the place of a number."""
    deep = rng.choice((b"[", b'{"a":', b"<a>", b"a [ ", b"(", b"-", b"[1, "))
    closing = {b"[": b"]", b"<a>": b"</a>", b"a [ ": b" ]", b"(": b")"}.get(deep, b"")
    pile = deep * 100_000 + b"1" + closing * 100_000
    if rng.random() < 0.3:
        return pile
    return _replace(_NUMBER, content, rng, pile)


def other_digit(content: bytes, rng: random.Random) -> bytes:
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if not digits:
        return content
    i = rng.choice(digits)
    return content[:i] + str(rng.randrange(10)).encode() + content[i + 1 :]


def other_value(content: bytes, rng: random.Random) -> bytes:
    """Not a number, beyond all numbers, or of another type."""
    return _replace(_NUMBER, content, rng, rng.choice(_VALUES))


def other_name(content: bytes, rng: random.Random) -> bytes:
    name = rng.choice(_NAMES).encode("utf-8", "surrogatepass")
    return _replace(_TEXT, content, rng, b'"' + name + b'"')


def key_twice(content: bytes, rng: random.Random) -> bytes:
    found = [*_PAIR.finditer(content)]
    if not found:
        return content
    pair = rng.choice(found)
    again = _NUMBER.sub(b"7", pair[0]) if rng.random() < 0.7 else pair[0]
    return content[: pair.start()] + again + b", " + content[pair.start() :]


def without_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def swapped_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


def long_header(content: bytes, rng: random.Random) -> bytes:
    """The first eight bytes, a length in safetensors, say something else."""
    length = rng.choice((0, 1, len(content), 10**8, 2**31, 2**63, 2**64 - 1))
    return length.to_bytes(8, "little") + content[8:]


def entities(content: bytes, rng: random.Random) -> bytes:
    """Definitions of text that unfolds to gigabytes, as XML allows them."""
    lines = [
        b'<!ENTITY a0 "ha">',
        *(b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 10)),
    ]
    return _replace(_NUMBER, b"<!DOCTYPE x [" + b"".join(lines) + b"]>" + content, rng, b"&a9;")


def recoded(content: bytes, rng: random.Random) -> bytes:
    """The same text in other codes, with or without a mark."""
    text = content.decode("utf-8", "replace")
    return text.encode(
        rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-be", "cp037")), "replace"
    )


def nothing(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b"\x00", b"{}", b"[]", b"null", b"0", b'""', b"\xff\xfe"))


def padded(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((b"\n", b" ", b"\x00", b"}", b"garbage", content))


DAMAGES: tuple[Damage, ...] = (
    *(flip, flip_bit, cut, drop, repeat, insert, nest, other_digit, other_value, other_name),
    *(key_twice, without_line, swapped_lines, long_header, entities, recoded, nothing, padded),
)


def _replace(pattern: re.Pattern[bytes], content: bytes, rng: random.Random, new: bytes) -> bytes:
    found = [*pattern.finditer(content)]
    if not found:
        return new
    place = rng.choice(found)
    return content[: place.start()] + new + content[place.end() :]
