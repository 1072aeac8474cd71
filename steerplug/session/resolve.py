"""From what a caller says to a mix: presets are found, built and put together.

Nothing here applies anything: what comes out is a value, and the words a receipt will use for it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from steerplug.build import Built
from steerplug.engine.model import Model
from steerplug.errors import EngineError, SteeringError
from steerplug.interchange.reading import read_vectors
from steerplug.library.presets import LibraryFile
from steerplug.library.recipe import Recipe
from steerplug.preset import Preset, check_range, check_strength
from steerplug.preset.mix import Ingredient
from steerplug.session.receipt import AppliedPreset
from steerplug.steering.file import read_steering
from steerplug.steering.identity import Identity, chat_template_hash
from steerplug.steering.terms import Phase
from steerplug.steering.value import Mix, Steering, Term

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """Steering that was looked up before, and what a receipt says of it."""

    mix: Mix
    ingredients: tuple[AppliedPreset, ...]


SteeringWords = str | Preset | Mix | Steering | Resolved | None
"""How a caller says steering: a mix in words (`"0.8*pirate + concise"`, `"none"`, or a `Recipe`,
which was read before), a preset (at its default strength), a value, what was looked up before, or
None for none."""


@dataclass(frozen=True)
class _Portion:
    """An ingredient of a mix with its steering; `allowed` are its preset's min and max."""

    steering: Steering
    strength: float
    version: str = ""
    format: str = ""
    unsteered: tuple[Phase, ...] = ()
    steered: tuple[Phase, ...] = ()
    pack: str = ""
    allowed: tuple[float, float] | None = None

    def plus(self, strength: float) -> "_Portion":
        """Return the same at the sum of strengths, which must be within its range."""
        total = round(self.strength + strength, 9)
        if self.allowed:
            check_range(self.steering.name, total, *self.allowed)
        return replace(self, strength=total)

    def applied(self) -> AppliedPreset:
        """Return what a receipt says of it; a preset that is taken away asks for no decoding."""
        applied = _applied(self.steering, self.version, self.strength)
        if self.strength > 0:
            applied = replace(
                applied, format=self.format, unsteered=self.unsteered, steered=self.steered
            )
        return replace(applied, pack=self.pack)


class Resolver:
    """Turns words into steering for one model.

    Args:
        model: the model.
        build: returns the steering of a preset for it, from the store if it is there.
    """

    def __init__(self, model: Model, build: Callable[[Preset], Built]) -> None:
        self._model, self._build = model, build
        self._warned: set[Path] = set()

    def mix(self, words: SteeringWords) -> tuple[Mix, tuple[AppliedPreset, ...]]:
        """Return a mix, and what a receipt says of it; presets are built when first used.

        Raises:
            PresetError, StrengthError, FitError, SteeringError, StoreError: see `errors`.
        """
        if words is None:
            return Mix(), ()
        if isinstance(words, Resolved):
            return words.mix, words.ingredients
        if isinstance(words, (Mix, Steering)):
            mix = Mix.of(words)
            self._check_geometry(mix)
            return mix, tuple(_applied(t.steering, "", t.strength) for t in mix.terms)
        sums: dict[tuple[str, str], _Portion] = {}
        for portion in self._portions(words):
            key = portion.steering.name, portion.steering.digest
            sums[key] = portion.plus(sums[key].strength) if key in sums else portion
        mix = Mix(tuple(Term(portion.strength, portion.steering) for portion in sums.values()))
        return mix, tuple(portion.applied() for portion in sums.values() if portion.strength)

    def _portions(self, words: str | Preset) -> Iterator["_Portion"]:
        if isinstance(words, Preset):
            yield self._from_preset(words, Ingredient(words.name))
            return
        for ingredient, file in Recipe.read(words).parts:
            yield self._portion(ingredient, file)

    def _portion(self, ingredient: Ingredient, file: LibraryFile) -> "_Portion":
        if file.preset is None:
            return self._from_file(file.path, ingredient)
        return self._from_preset(file.preset, ingredient)

    def _from_preset(self, preset: Preset, ingredient: Ingredient) -> "_Portion":
        check_strength(preset, ingredient.strength_at(preset.strength.default))  # before building
        built = self._build(preset)
        return _Portion(
            built.steering,
            ingredient.strength_at(built.default_strength(preset)),
            preset.version,
            preset.format,
            preset.unsteered,
            preset.steered,
            preset.origin.pack if preset.origin else "",
            (preset.strength.min, preset.strength.max),
        )

    def _from_file(self, path: Path, ingredient: Ingredient) -> "_Portion":
        model = self._model
        steering, identity = read_steering(path, n_embd=model.n_embd, n_layer=model.n_layer)
        if identity is None:
            self._warn_of_shift(path)
            return _Portion(steering, ingredient.strength_at(1.0))
        if identity.architecture != model.architecture:
            raise SteeringError(
                f"{path} is for the architecture `{identity.architecture}`, and {model.name} is "
                f"`{model.architecture}`; build the preset for this model."
            )
        self._warn_of_near_miss(path, identity)
        strength = ingredient.strength_at(identity.strength_default)
        allowed = identity.strength_min, identity.strength_max
        check_range(identity.preset, strength, *allowed)
        return _Portion(steering, strength, identity.preset_version, allowed=allowed)

    def _warn_of_shift(self, path: Path) -> None:
        """Say once where a control vector acts a block late, as it does in llama.cpp."""
        if path not in self._warned and read_vectors(path).format == "llama.cpp":
            self._warned.add(path)
            log.warning(
                "%s looks like one of llama.cpp's generator, whose vectors act one block later "
                "than they were taken; it acts as in llama.cpp. `steerplug import` corrects it.",
                path,
            )

    def _warn_of_near_miss(self, path: Path, identity: Identity) -> None:
        """Say once where steering made for nearly this model is used all the same."""
        template = chat_template_hash(self._model.chat_template)
        differs = []
        if identity.model != self._model.fingerprint:
            differs.append("quantisation or version of the model")
        if identity.chat_template not in ("", template):
            differs.append("chat template")
        if differs and path not in self._warned:
            self._warned.add(path)
            log.warning(
                "%s was built for another %s; it is used as it is, and may do less. "
                "`steerplug build` makes it for %s.", path, " and ".join(differs), self._model.name,
            )  # fmt: skip

    def _check_geometry(self, mix: Mix) -> None:
        shape = self._model.n_embd, self._model.n_layer
        for term in mix.terms:
            if (term.steering.n_embd, term.steering.n_layer) != shape:
                raise EngineError(
                    f"`{term.steering.name}` is for a model of (n_embd, n_layer) "
                    f"{(term.steering.n_embd, term.steering.n_layer)}, and {self._model.name} has "
                    f"{shape}; build it for this model."
                )


def _applied(steering: Steering, version: str, strength: float) -> AppliedPreset:
    return AppliedPreset(
        steering.name, version, strength, steering.digest, tuple(steering.layers), steering.scope
    )
