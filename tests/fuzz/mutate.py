"""Damage: to bytes, to text, to JSON values, to .npy files. Each takes a random.Random and a value
and returns another; nothing here knows remi-fast."""

import ast
import json
import struct
from random import Random
from typing import Any

EXTREMES = (0, 1, -1, 2, 7, 127, 255, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1)
EXTREMES += (2**62, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30)
WORDS = (
    "",
    " ",
    "nan",
    "inf",
    "-0.0",
    "1e400",
    "1.5",
    "null",
    "true",
    "é",
    "\0",
    '"',
    "'",
    "\ufeff",
)
WORDS += ("007", "0x10", "1_000", "2020-01-01", "2020-01-01T00:00:00Z", "[", "{", "&a", "*a", "!!x")
TYPES = ("<i4", "<i8", ">i4", "|O", "<f8", "|b1", "<U3", "|V4", "<M8[s]", "<c16", "<i2", "i4,i4")


def some_bytes(random: Random, content: bytes) -> bytes:
    """Flip, cut, double, overwrite or swap bytes."""
    if not content:
        return random.randbytes(3)
    data = bytearray(content)
    start = random.randrange(len(data))
    end = min(len(data), start + random.choice((1, 4, 8, 64)))
    match random.randrange(6):
        case 0:
            data[start] ^= 1 << random.randrange(8)
        case 1:
            del data[start:]
        case 2:
            data[start:start] = data[start:end]
        case 3:
            del data[start:end]
        case 4:
            data[start:end] = random.randbytes(end - start)
        case 5:
            number = struct.pack("<Q", random.choice(EXTREMES) % 2**64)
            data[start : start + 8] = number[: random.choice((4, 8))]
    return bytes(data)


def word(random: Random) -> str:
    """A number or text that is often trouble."""
    return str(random.choice(random.choice((EXTREMES, WORDS))))


def lines(random: Random, content: bytes, separators: str) -> bytes:
    """Swap, repeat, drop or join lines; replace, add or drop a field of one."""
    rows = content.decode("utf-8", "surrogateescape").splitlines(keepends=True) or [""]
    i, j = random.randrange(len(rows)), random.randrange(len(rows))
    separator = random.choice(separators)
    fields = rows[i].rstrip("\r\n").split(separator)
    k = random.randrange(len(fields))
    match random.randrange(8):
        case 0:
            rows[i], rows[j] = rows[j], rows[i]
        case 1:
            rows[i:i] = [rows[j]] * random.choice((1, 1, 1, 200))
        case 2:
            del rows[i]
        case 3:
            rows[i] = rows[i].rstrip("\n") + random.choice(("", "\r", "\r\n", "\0", "\u2028"))
        case 4 | 5:
            fields[k] = word(random)
            rows[i] = separator.join(fields) + "\n"
        case 6:
            fields[k:k] = [word(random)]
            rows[i] = separator.join(fields) + "\n"
        case 7:
            del fields[k]
            rows[i] = separator.join(fields) + "\n"
    return "".join(rows).encode("utf-8", "surrogateescape")


def value(random: Random, old: Any) -> Any:
    """Damage one place of a JSON value: drop, repeat, retype or replace it."""
    if isinstance(old, dict) and old and random.random() < 0.9:
        key = random.choice(list(old))
        match random.randrange(6):
            case 0:
                return {k: v for k, v in old.items() if k != key}
            case 1:
                return old | {word(random): old[key]}
            case _:
                return old | {key: value(random, old[key])}
    if isinstance(old, list) and old and random.random() < 0.9:
        i = random.randrange(len(old))
        match random.randrange(4):
            case 0:
                return old[:i] + old[i + 1 :]
            case 1:
                return old[:i] + old[i:] * 2
            case _:
                return old[:i] + [value(random, old[i])] + old[i + 1 :]
    replacements = (
        random.choice(EXTREMES),
        word(random),
        None,
        True,
        0.5,
        [],
        {},
        [old],
        {"a": old},
    )
    return random.choice(replacements)


def json_text(random: Random, content: bytes) -> bytes:
    """Damage a JSON text: a value in it or, seldom, the text."""
    if random.random() < 0.2:
        return some_bytes(random, content)
    return json.dumps(value(random, json.loads(content)), indent=2).encode()


def npy(random: Random, content: bytes) -> bytes:
    """Damage an .npy file: the fields of its header, the numbers in it, or any bytes."""
    start = 10 + struct.unpack("<H", content[8:10])[0]
    header: dict[str, Any] = ast.literal_eval(content[10:start].decode())
    kind = random.randrange(4)
    if kind == 0:
        return some_bytes(random, content)
    if kind == 1:  # one of the numbers
        width = int(header["descr"][2:])
        count = (len(content) - start) // width
        data = bytearray(content)
        if count:
            at = start + width * random.randrange(count)
            near = int.from_bytes(data[at : at + width], "little") + random.choice((-1, 1, 3))
            number = random.choice((near, random.choice(EXTREMES))) % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, "little")
        return bytes(data)
    shape = list(header["shape"])
    match random.randrange(5):
        case 0:
            shape[random.randrange(len(shape))] = random.choice(EXTREMES)
        case 1:
            shape.insert(random.randrange(len(shape) + 1), random.choice((0, 1, 2, 2**40)))
        case 2:
            shape.pop()
        case 3:
            header["descr"] = random.choice(TYPES)
        case 4:
            header = value(random, header)
    if isinstance(header, dict) and "shape" in header:
        header["shape"] = tuple(shape)
    text = repr(header).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return content[:8] + struct.pack("<H", len(text) % 2**16) + text + content[start:]


def safetensors(random: Random, content: bytes) -> bytes:
    """Damage a safetensors file: its JSON header, its length, or any bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    kind = random.randrange(4)
    if kind == 0:
        return some_bytes(random, content)
    if kind == 1:
        return struct.pack("<Q", random.choice(EXTREMES) % 2**64) + content[8:]
    header = json_text(random, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
