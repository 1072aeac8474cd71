"""The character card in a PNG: its text chunks are read, its picture is not.

A PNG is a signature and chunks: length u32, kind, data, CRC-32 of kind and data, big-endian; `IEND`
is the last. A card is base64 of JSON in a text chunk called `ccv3` (V3) or `chara` (V1 and V2):
`tEXt` is name, NUL, text; `zTXt` name, NUL, method, zlib; `iTXt` name, NUL, whether it is
compressed, method, language, NUL, translated name, NUL, text.
"""

import base64
import binascii
import zlib
from collections.abc import Iterator

from steerplug.errors import PresetError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNKS = 65_536
_NAMES = (b"ccv3", b"chara")  # where both are, the newer counts
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_CURE = "download the original file again"


def card_in_png(content: bytes, source: str, most: int) -> tuple[bytes, str]:
    """Return the JSON of the card in a PNG, and the name of the chunk that holds it.

    Args:
        content: the file.
        source: what messages call it.
        most: how many bytes the JSON may have.

    Raises:
        PresetError: there is no card, two different ones, or one that is damaged or too large.
    """
    found: dict[bytes, bytes] = {}
    for kind, data, is_whole in _chunks(content, source):
        name, nul, rest = data.partition(b"\0")
        if kind not in _TEXTS or not nul or name not in _NAMES:
            continue
        chunk = f"{source}: its `{name.decode()}` chunk"
        if not is_whole:
            raise PresetError(f"{chunk} is damaged (its CRC is wrong); {_CURE}.")
        text = _text(kind, rest, chunk, 2 * most)
        if found.setdefault(name, text) != text:
            raise PresetError(
                f"{source} holds two different `{name.decode()}` chunks, and programs differ in "
                "which of them they read; keep one."
            )
    for name in _NAMES:
        if name in found:
            return _decoded(
                found[name], f"{source}: its `{name.decode()}` chunk", most
            ), name.decode()
    raise PresetError(
        f"{source} is a picture without a character card (no chunk `chara` or `ccv3`), as "
        f"screenshots and pictures saved anew are; {_CURE}."
    )


def _chunks(content: bytes, source: str) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield kind and data of each text chunk, and whether its CRC is right."""
    view, at = memoryview(content), len(SIGNATURE)
    for _ in range(_CHUNKS):
        size, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + size
        if len(content) < end + 4:
            raise PresetError(f"{source} is cut off; {_CURE}.")
        if kind == b"IEND":
            return
        if kind in _TEXTS:
            crc = int.from_bytes(view[end : end + 4], "big")
            yield kind, bytes(view[at + 8 : end]), zlib.crc32(view[at + 4 : end]) == crc
        at = end + 4
    raise PresetError(f"{source} has more than {_CHUNKS} chunks, which no card needs; {_CURE}.")


def _text(kind: bytes, rest: bytes, chunk: str, most: int) -> bytes:
    """Return what stands behind the name of a text chunk, decompressed."""
    is_packed = kind == b"zTXt"
    if kind == b"iTXt":
        flags, rest = rest[:2], rest[2:]
        is_packed = flags[:1] == b"\1"
        rest = rest.partition(b"\0")[2].partition(b"\0")[2]
        method = flags[1:]
    else:
        method, rest = (rest[:1], rest[1:]) if is_packed else (b"\0", rest)
    if is_packed and method != b"\0":
        raise PresetError(f"{chunk} is compressed in a way that PNG does not know; {_CURE}.")
    if is_packed:
        rest = _unpacked(rest, chunk, most)
    if len(rest) > most:
        raise _too_large(chunk, most)
    return rest


def _unpacked(data: bytes, chunk: str, most: int) -> bytes:
    try:
        stream = zlib.decompressobj()
        text = stream.decompress(data, most + 1)
    except zlib.error:
        raise PresetError(f"{chunk} is damaged (it cannot be decompressed); {_CURE}.") from None
    if len(text) <= most and not stream.eof:
        raise PresetError(f"{chunk} is damaged (its end is missing); {_CURE}.")
    return text


def _decoded(text: bytes, chunk: str, most: int) -> bytes:
    try:
        card = base64.b64decode(b"".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise PresetError(f"{chunk} is not base64, as a card's is; {_CURE}.") from None
    if len(card) > most:
        raise _too_large(chunk, most)
    return card


def _too_large(chunk: str, most: int) -> PresetError:
    return PresetError(
        f"{chunk} holds more than {most // 2**20} MB of text, and a preset replaces 32 kB; take "
        "the lore out of the card."
    )
