"""The presets a server offers: all of the library, each with what carries it on its model.

No request waits for a fit: a preset that is not compiled for the model is carried by its prompt.
Only a contrast, which has none, is then not offered, and who asks for it is told so. The library's
folders are looked at again now and then (`refresh`), so a preset that is added, edited, built or
removed is noticed without a restart.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerplug.errors import FitError, SteerplugError, nearest
from steerplug.files.text import one_line
from steerplug.library.presets import Listing, list_presets, user_folder
from steerplug.packs.lock import lock_in_use
from steerplug.preset import Preset
from steerplug.server.errors import Refused
from steerplug.session import Session
from steerplug.session.carrying import Carrying
from steerplug.session.compiler import Job

log = logging.getLogger("steerplug.server")

_TOO_MUCH = "Too much"


@dataclass(frozen=True)
class Offer:
    """A preset, and what carries it.

    Args:
        name: what it is called in a mix.
        preset: what its file says.
        carrying: what carries it.
    """

    name: str
    preset: Preset
    carrying: Carrying

    def describe(self, job: Job | None = None) -> dict[str, Any]:
        """Return what clients may know of it, with how far its compiling is."""
        preset, carrying = self.preset, self.carrying
        does, mark, rest = one_line(preset.description).partition(_TOO_MUCH)
        strength, built = preset.strength, None if carrying.reason else carrying.built
        return {
            "name": self.name,
            "description": does.strip(),
            "too_much": f"{mark}{rest}" if mark else None,
            "strength": {
                "min": strength.min, "max": strength.max,
                "default": built.default_strength(preset) if built else 1.0,
            },
            "carrier": carrying.carrier,
            "reason": carrying.reason or None,
            "prompt_tokens": carrying.n_tokens,
            "compiling": job and job.describe(),
            "tokens_saved": built and built.identity.fidelity.get("prompt_tokens_saved"),
            "version": preset.version,
            "tags": list(preset.tags),
            "license": preset.license,
            "scope": preset.scope,
            "digest": built.steering.digest if built else preset.digest,
        }  # fmt: skip


class Catalog:
    """What can be asked for by name.

    Args:
        session: the model.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: object = None
        self._missing: dict[str, str] = {}
        self.offers: dict[str, Offer] = {}
        self.listed: dict[str, Offer] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the library again if its folders have changed."""
        seen = self._stamp()
        if seen == self._seen:
            return
        before, self._seen = self.offers, seen
        listed, missing = dict[str, Offer](), dict[str, str]()
        for listing in list_presets():
            offer_or_reason = self._offer(listing)
            if isinstance(offer_or_reason, Offer):
                listed[listing.name] = offer_or_reason
            else:
                missing[listing.name] = offer_or_reason
        offers = {name: offer for name, offer in listed.items() if offer.carrying.carrier}
        waiting = {name: self._why_not(offer) for name, offer in listed.items()}
        self.offers, self.listed, self._missing = offers, listed, {**waiting, **missing}
        if before and (changes := _changes(before, offers)):
            log.info("presets reloaded", extra=changes)

    @staticmethod
    def _why_not(offer: Offer) -> str:
        cure = f"run `steerplug build {offer.name} -m MODEL` on the server"
        return f"the preset `{offer.name}` cannot be used, {offer.carrying.reason}; {cure}."

    def _offer(self, listing: Listing) -> Offer | str:
        """Return a preset that can be used, or why it cannot."""
        name, preset = listing.name, listing.preset
        if preset is None:
            log.warning("preset `%s` is broken: %s", name, listing.error)
            return f"the preset `{name}` is broken; `steerplug lint {name}` says why."
        try:
            return Offer(name, preset, self._session.carrying(preset))
        except FitError as error:
            log.warning("preset `%s` is not offered: %s", name, error)
            return str(error)
        except SteerplugError as error:
            log.warning("preset `%s` cannot be used: %s", name, error)
            return f"the steering of `{name}` cannot be used; the server's log says why."

    def check(self, name: str) -> None:
        """Refuse what is no preset on offer; paths never are.

        Raises:
            Refused: there is none; the sentence names the nearest.
        """
        if name in self.offers:
            return
        reason = self._missing.get(name)
        if reason is None:
            guess = nearest(name.lower(), self.listed) or "; GET /steering/presets lists all."
            reason = f"there is no preset `{name[:80]}`{guess}"
        raise Refused(reason, 404, "model_not_found", "steering")

    def _stamp(self) -> object:
        """Return what changes when a preset, a pack or built steering does."""
        store = self._session.store.folder
        return [
            [_stat(path) for path in _entries(user_folder())],
            _stat(lock_in_use()),
            [_stat(path) for path in _entries(store)],
        ]


def _changes(before: dict[str, Offer], now: dict[str, Offer]) -> dict[str, list[str]]:
    """Return what came, what went, and what is described otherwise, such as by its carrier."""
    changes = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "changed": {
            name for name in before.keys() & now.keys()
            if before[name].describe() != now[name].describe()
        },
    }  # fmt: skip
    return {what: sorted(names) for what, names in changes.items() if names}


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _stat(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return path.name, status.st_size, status.st_mtime_ns
