"""Pictures that mean harm, or are broken by chance; and addresses that may not be asked. The same for the same seed."""

from __future__ import annotations

import base64
import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"


def save(file: str, mode: str = "RGB", size: tuple[int, int] = (20, 10), **more: Any) -> bytes:
    """A whole picture."""
    out = io.BytesIO()
    Image.new(mode, size).save(out, file, **more)
    return out.getvalue()


def animated(file: str) -> bytes:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, file, save_all=True, append_images=frames[1:])
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 2,
    data: bytes = b"",
    packed: bytes = b"",
    more: bytes = b"",
) -> bytes:
    """A PNG that says what it is told to; its data may be packed already, `more` are chunks before it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = _chunk(b"IDAT", packed or zlib.compress(data)) + _chunk(b"IEND", b"")
    return PNG_START + _chunk(b"IHDR", header) + more + body


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims another size."""
    data = save("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@functools.cache
def _packed(count: int) -> bytes:
    """Zeros that take little room until they are unpacked."""
    return zlib.compress(bytes(count), 1)


def _bomb(chance: random.Random) -> bytes:
    side = chance.choice([5000, 20_000, 65_535, 2**31 - 1])
    text = b"a\0\0" + _packed(20_000_000)
    return chance.choice(
        [
            png(side, side),
            png(side, 1000, colour=6),
            png(64, 64, packed=_packed(50_000_000)),
            png(64, 64, more=_chunk(b"zTXt", text)),
            png(64, 64, more=_chunk(b"iCCP", text)),
            jpeg_of_size(65_535, 65_535),
            jpeg_of_size(65_500, 1),
            png(0, 0),
        ]
    )


def _sides(chance: random.Random) -> bytes:
    side = chance.choice([1, 2, 7, 65_535])
    size = (65_535, side) if side < 65_535 else (1, 65_535)
    return save("PNG", chance.choice(["RGB", "L", "RGBA"]), size)


def _no_picture(chance: random.Random) -> bytes:
    return chance.choice(
        [
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>",
            b"<!DOCTYPE html><script>alert(1)</script>",
            b'{"error": "no"}',
            b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run",
            b"%PDF-1.7\n" + bytes(99),
            b"PK\x03\x04" + bytes(99),
            b"GIF89a" + bytes(99),
            b"II*\0" + bytes(99),
            save("GIF"),
            save("BMP"),
            save("TIFF"),
            bytes(chance.randrange(300)),
            chance.randbytes(chance.randrange(1, 3000)),
        ]
    )


def _polyglot(chance: random.Random) -> bytes:
    whole = save(chance.choice(["PNG", "JPEG", "WEBP"]), size=(64, 64))
    other = chance.choice(
        [b"PK\x03\x04<script>", b"<svg onload=x>", b"\x80\x04cos\nsystem\n", b"GIF89a"]
    )
    return chance.choice([whole + other * 50, other + whole, other * 9])


def _unusual(chance: random.Random) -> bytes:
    return chance.choice(
        [
            animated("PNG"),
            animated("WEBP"),
            save("JPEG", "CMYK"),
            save("PNG", "I;16"),
            save("PNG", "LA"),
            save("PNG", "P"),
            save("PNG", "P", transparency=0),
            save("PNG", "1"),
            png(16, 16, depth=16, data=(b"\0" + bytes(96)) * 16),
            png(16, 16, colour=3, data=(b"\0" + bytes(16)) * 16),  # a palette that is not there
            save("JPEG", exif=b"Exif\0\0" + chance.randbytes(60)),
        ]
    )


def _damaged(chance: random.Random) -> bytes:
    """A picture that was cut, or has other bytes in a few places."""
    data = bytearray(save(chance.choice(["PNG", "JPEG", "WEBP"]), size=(64, 48)))
    if chance.random() < 0.4:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.randrange(1, 12)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _address(chance: random.Random) -> str:
    host = chance.choice(
        ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0x7f.1",
         "2130706433", "[::ffff:10.0.0.1]", "100.64.0.1", "user:secret@10.0.0.1", "172.16.0.1",
         "[fe80::1]", "0", "[64:ff9b::a00:1]", "224.0.0.1", ""]
    )  # fmt: skip
    scheme = chance.choice(["https", "http", "HTTPS", "https"])
    return f"{scheme}://{host}/{chance.choice(['x.png', '', '%00', '../x'])}"


def _text(chance: random.Random) -> str:
    good = base64.b64encode(save("PNG")).decode()
    return chance.choice(
        [
            good[:-3],
            good.replace("A", "-"),
            good + "ä",
            f"data:image/png,{good}",
            f"data:image/svg+xml;utf8,<svg/>{good}",
            "data:image/png;base64",
            "data:",
            "file:///etc/passwd",
            "ftp://example.org/x.png",
            "/etc/passwd",
            "C:\\x.png",
            "\ud800",
            "\x00",
            "💥" * 9,
            "=" * 50,
            good * 3,
            base64.b64encode(good.encode()).decode(),
        ]
    )


_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _bomb, _sides, _no_picture, _polyglot, _unusual, _damaged, _damaged,
)  # fmt: skip


def hostile_texts(count: int, seed: int = 1) -> Iterator[str]:
    """What may stand where a picture is wanted."""
    chance = random.Random(seed)
    for _ in range(count):
        kind = chance.randrange(len(_KINDS) + 2)
        if kind < len(_KINDS):
            start = chance.choice(["", "", "data:image/png;base64,"])
            yield start + base64.b64encode(_KINDS[kind](chance)).decode()
        else:
            yield (_address if kind == len(_KINDS) else _text)(chance)
