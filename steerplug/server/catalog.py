"""The presets a server offers: those of the library that are built for its model.

Nothing is fitted while serving. A preset that was never built for the model is not offered, and who
asks for it is told so. The library's folders are looked at again now and then (`refresh`), so a
preset that is added, edited, built or removed is noticed without a restart.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerplug.build import Built, find_built
from steerplug.errors import FitError, SteerplugError, nearest
from steerplug.files.text import one_line
from steerplug.library.presets import Listing, list_presets, user_folder
from steerplug.packs.lock import lock_in_use
from steerplug.preset import Preset
from steerplug.server.errors import Refused
from steerplug.session import Session

log = logging.getLogger("steerplug.server")

_TOO_MUCH = "Too much"


@dataclass(frozen=True)
class Offer:
    """A preset that can be used at once.

    Args:
        name: what it is called in a mix.
        preset: what its file says.
        built: its steering for the model.
    """

    name: str
    preset: Preset
    built: Built

    def describe(self) -> dict[str, Any]:
        """Return what clients may know of it."""
        preset = self.preset
        does, mark, rest = one_line(preset.description).partition(_TOO_MUCH)
        strength = preset.strength
        return {
            "name": self.name,
            "description": does.strip(),
            "too_much": f"{mark}{rest}" if mark else None,
            "strength": {
                "min": strength.min, "max": strength.max,
                "default": self.built.default_strength(preset),
            },
            "tokens_saved": self.built.identity.fidelity.get("prompt_tokens_saved"),
            "version": preset.version,
            "tags": list(preset.tags),
            "license": preset.license,
            "scope": preset.scope,
            "digest": self.built.steering.digest,
        }  # fmt: skip


class Catalog:
    """What can be asked for by name.

    Args:
        session: the model.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: object = None
        self._built: dict[tuple[str, str], Built] = {}
        self._missing: dict[str, str] = {}
        self.offers: dict[str, Offer] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the library again if its folders have changed."""
        seen = self._stamp()
        if seen == self._seen:
            return
        before, self._seen = set(self.offers), seen
        offers, missing = dict[str, Offer](), dict[str, str]()
        for listing in list_presets():
            offer_or_reason = self._offer(listing)
            if isinstance(offer_or_reason, Offer):
                offers[listing.name] = offer_or_reason
            else:
                missing[listing.name] = offer_or_reason
        self.offers, self._missing = offers, missing
        if before:
            added, gone = sorted(set(offers) - before), sorted(before - set(offers))
            log.info("presets reloaded", extra={"added": added, "removed": gone})

    def _offer(self, listing: Listing) -> Offer | str:
        """Return a preset that can be used, or why it cannot."""
        name, preset = listing.name, listing.preset
        if preset is None:
            log.warning("preset `%s` is broken: %s", name, listing.error)
            return f"the preset `{name}` is broken; `steerplug lint {name}` says why."
        try:
            built = self._find(name, preset)
        except FitError as error:
            log.warning("preset `%s` is not offered: %s", name, error)
            return str(error)
        except SteerplugError as error:
            log.warning("preset `%s` cannot be used: %s", name, error)
            return f"the steering of `{name}` cannot be used; the server's log says why."
        if built is None:
            cure = f"run `steerplug build {name} -m MODEL` on the server"
            log.warning("preset `%s` is not offered; %s.", name, cure)
            return f"the preset `{name}` is not built for this model; {cure}."
        return Offer(name, preset, built)

    def _find(self, name: str, preset: Preset) -> Built | None:
        key, session = (name, preset.digest), self._session
        if key not in self._built:
            built = find_built(preset, session.engine, store=session.store, near=True)
            if built is None:
                return None
            self._built[key] = built
        return self._built[key]

    def check(self, name: str) -> None:
        """Refuse what is no preset on offer; paths never are.

        Raises:
            Refused: there is none; the sentence names the nearest.
        """
        if name in self.offers:
            return
        reason = self._missing.get(name)
        if reason is None:
            guess = nearest(name.lower(), self.offers) or "; GET /steering/presets lists all."
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
