"""Which steering a request asks for, and that it is one that clients may ask for.

    body field `steering`  >  `model: "base@mix"`  >  header `x-steering`  >  the server's default

The first of these that says something decides alone. All say a mix in words (`pirate`,
`0.8*pirate + concise`, `none`); the body may say an object of strengths instead. A mix names
presets on offer and nothing else: what looks like a path or an address is just an unknown name.
What carries it is said in the same places: field `carrier` > `base@mix:carrier` > header
`x-steering-carrier` > auto.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from steerplug.errors import SteerplugError
from steerplug.library.recipe import Recipe
from steerplug.preset.carrier import Carrier, check_carrier
from steerplug.preset.mix import MAX_INGREDIENTS, Ingredient, format_mix, parse_mix
from steerplug.server.catalog import Catalog
from steerplug.server.errors import Refused
from steerplug.session import Session
from steerplug.session.resolve import Resolved

log = logging.getLogger("steerplug.server")

_MAX_KNOWN = 256

MixLike = str | Mapping[str, float]
"""A mix in words, or the strength of each preset."""


@dataclass(frozen=True)
class SteeringChoice:
    """The steering of one reply.

    Args:
        mix: in words.
        steering: what it means.
    """

    mix: str
    steering: Resolved

    @property
    def carrier(self) -> str:
        """What carries it; empty for nothing."""
        return self.steering.carrier

    @property
    def digest(self) -> str:
        """The digest of what will be applied; empty for nothing."""
        return self.steering.mix.digest if self.steering.mix else ""


class Chooser:
    """Decides how replies are steered.

    Args:
        session: the model.
        catalog: the presets on offer.
        base: what clients call the model.
        default: how to steer if nobody says.

    Raises:
        SteerplugError: the default is not on offer.
    """

    def __init__(self, session: Session, catalog: Catalog, base: str, default: str) -> None:
        self._session, self._catalog, self.base = session, catalog, base
        self._offers, self._known = catalog.offers, dict[tuple[str, Carrier], SteeringChoice]()
        self._default = self.resolve(default)
        self._default_offers = self._offers

    @property
    def default(self) -> SteeringChoice:
        """How to steer if nobody says, with what carries it now."""
        if self._default_offers is not self._catalog.offers:
            self._default_offers = self._catalog.offers
            try:
                self._default = self.resolve(self._default.mix)
            except SteerplugError as error:
                log.warning("the default steering stays as it was: %s", error)
        return self._default

    @default.setter
    def default(self, choice: SteeringChoice) -> None:
        self._default, self._default_offers = choice, self._catalog.offers

    def models(self) -> list[str]:
        """Return the ids of all models: the bare one, and one for each preset."""
        return [self.base, *(f"{self.base}@{name}" for name in sorted(self._catalog.offers))]

    def choose(
        self, model: str, body: MixLike | None, header: str | None,
        carriers: tuple[str | None, str | None] = (None, None),
    ) -> SteeringChoice:  # fmt: skip
        """Return how to steer, from what the places where a client may say it say.

        Args:
            model: the model's id: what clients call it, with or without a mix.
            body: the mix of the body.
            header: the mix of the header.
            carriers: the carrier of the body, and that of the header.

        Raises:
            Refused: a preset or the carrier is unknown.
            PresetError, StrengthError: the mix cannot be read, or goes too far.
        """
        suffix, suffix_carrier = self._suffix(model)
        mix = next((mix for mix in (body, suffix, header) if mix is not None), None)
        try:
            carrier = check_carrier(carriers[0] or suffix_carrier or carriers[1] or "auto")
        except SteerplugError as error:
            raise Refused(str(error), error.status, "invalid_carrier", "carrier") from None
        if mix is None and carrier == "auto":
            return self.default
        return self.resolve(self.default.mix if mix is None else mix, carrier)

    def resolve(self, mix: MixLike, carrier: Carrier = "auto") -> SteeringChoice:
        """Return the steering that a mix means; errors are those of `choose`."""
        words = mix if isinstance(mix, str) else _spell(mix)
        if self._offers is not self._catalog.offers or len(self._known) >= _MAX_KNOWN:
            self._offers, self._known = self._catalog.offers, {}
        known = self._known  # another thread may begin a new one
        if (words, carrier) not in known:
            known[words, carrier] = self._look_up(words, carrier)
        return known[words, carrier]

    def _look_up(self, words: str, carrier: Carrier) -> SteeringChoice:
        try:
            ingredients = parse_mix(words)
            for ingredient in ingredients:
                self._catalog.check(ingredient.reference)
            steering = self._session.resolve(Recipe(words, ingredients), carrier)
        except Refused:
            raise
        except SteerplugError as error:
            raise Refused(str(error), error.status, "invalid_steering", "steering") from None
        return SteeringChoice(words, steering)

    def _suffix(self, model: str) -> tuple[str | None, str | None]:
        """Return the mix and the carrier that a model's id ends in, if it does."""
        if model == self.base:
            return None, None
        words = model.removeprefix(f"{self.base}@")
        mix, _, carrier = words.rpartition(":")  # no preset's name holds a colon
        return (mix, carrier) if mix else (words, None)


def _spell(strengths: Mapping[str, float]) -> str:
    """Return strengths by name as a mix in words."""
    if len(strengths) > MAX_INGREDIENTS:
        raise Refused(f"a mix has at most {MAX_INGREDIENTS} presets; drop some.", param="steering")
    return format_mix(
        tuple(Ingredient(name, abs(x), 1 if x >= 0 else -1) for name, x in strengths.items())
    )
