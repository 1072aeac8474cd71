"""Character cards as files, made after the specifications; pictures by Pillow, zips by zipfile."""

import base64
import io
import json
import struct
import zipfile
import zlib
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

DATA: dict[str, Any] = {
    "name": "Anna", "description": "{{char}} sails. {{user}} is her mate.", "personality": "gruff",
    "scenario": "A storm comes.", "first_mes": "Ahoy, {{user}}!", "creator_notes": "Be kind.",
    "mes_example": "<START>\n{{user}}: Hi\n{{char}}: Ahoy!\nMatey!\n<START>\n{{user}}: Rain?\n"
    "{{char}}: Water from above.", "system_prompt": "", "post_history_instructions": "",
    "alternate_greetings": ["Aye."], "tags": ["sea"], "creator": "c", "character_version": "1",
    "extensions": {"x": {}},
    "character_book": {"entries": [{"keys": ["ship"], "content": "Her ship is the Gull."}]},
}  # fmt: skip


def v1(**fields: Any) -> dict[str, Any]:
    """Return a V1 card: six texts and no more."""
    names = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
    return {**{name: DATA[name] for name in names}, **fields}


def pygmalion(**fields: Any) -> dict[str, Any]:
    """Return a card as it was before V1."""
    dialogue = DATA["mes_example"].replace("{{user}}", "You").replace("{{char}}", DATA["name"])
    return {
        "char_name": DATA["name"], "char_persona": DATA["description"],
        "char_greeting": DATA["first_mes"], "world_scenario": DATA["scenario"],
        "example_dialogue": dialogue, **fields,
    }  # fmt: skip


def v2(**fields: Any) -> dict[str, Any]:
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": {**DATA, **fields}}


def v3(**fields: Any) -> dict[str, Any]:
    data = {**DATA, "group_only_greetings": [], "nickname": "Annie", **fields}
    return {"spec": "chara_card_v3", "spec_version": "3.0", "data": data}


def as_json(card: object) -> bytes:
    return json.dumps(card, ensure_ascii=False).encode()


def base64_of(card: object) -> str:
    return base64.b64encode(as_json(card)).decode()


def png(*texts: tuple[str, str], packed: bool = False, international: bool = False) -> bytes:
    """Return a picture with these text chunks, as Pillow writes it."""
    info = PngInfo()
    for name, text in texts:
        if international:
            info.add_itxt(name, text, zip=packed)
        else:
            info.add_text(name, text, zip=packed)
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "navy").save(file, "PNG", pnginfo=info)
    return file.getvalue()


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """Return a chunk of a PNG, by hand: for what Pillow does not write."""
    right = zlib.crc32(kind + data)
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", right if crc is None else crc)
    )


def png_of(*chunks: bytes) -> bytes:
    """Return a PNG of these chunks, put before the picture's end."""
    whole = png()
    return whole[:-12] + b"".join(chunks) + whole[-12:]


def charx(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()
