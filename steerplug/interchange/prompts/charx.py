"""The character card in a CHARX: a zip whose `card.json` is read, and no other member is."""

import io
import zipfile

from steerplug.errors import PresetError

_MEMBERS = 5000
_CARD = "card.json"
_HEADER = b"PK\x01\x02"  # before each member's entry in the directory
_CURE = "download the original file again"


def card_in_charx(content: bytes, source: str, most: int) -> bytes:
    """Return the JSON of the card in a CHARX.

    Args:
        content: the file.
        source: what messages call it.
        most: how many bytes the JSON may have.

    Raises:
        PresetError: there is no card, two of them, or one that is damaged, encrypted or too large.
    """
    if content.count(_HEADER) > _MEMBERS:
        raise PresetError(
            f"{source} is a zip of more than {_MEMBERS} files; take {_CARD} out of it."
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [one for one in archive.infolist() if one.orig_filename == _CARD]
            _check(members, source)
            with archive.open(members[0]) as file:
                card = file.read(most + 1)
    except PresetError:
        raise
    except Exception as error:  # zipfile's own, zlib.error, NotImplementedError, struct.error, ...
        why = str(error) or type(error).__name__
        raise PresetError(f"{source} is a damaged zip ({why[:80]}); {_CURE}.") from None
    if len(card) > most:
        raise PresetError(
            f"{source}: {_CARD} holds more than {most // 2**20} MB, and a preset replaces 32 kB; "
            "take the lore out of the card."
        )
    return card


def _check(members: list[zipfile.ZipInfo], source: str) -> None:
    if not members:
        raise PresetError(
            f"{source} is a zip without {_CARD} at its top, so no character card; give a .charx."
        )
    if len(members) > 1:
        raise PresetError(
            f"{source} holds {_CARD} {len(members)} times, and programs differ in which of them "
            "they read; keep one."
        )
    if members[0].flag_bits & 1:
        raise PresetError(f"{source}: {_CARD} is encrypted; unpack it first.")
