"""From what a caller says to what a reply is given: a mix of steering, and prompts of presets.

Presets are looked up, never fitted: what is compiled for the model steers, and what is not comes in
by its prompt; see `preset.carrier`. Nothing here applies anything: what comes out is a value, and
the words a receipt will use for it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from steerplug.build import Built
from steerplug.engine.model import Model
from steerplug.errors import EngineError, FitError, RequestError, SteeringError, StrengthError
from steerplug.interchange.reading import read_vectors
from steerplug.library.recipe import Recipe
from steerplug.preset import Preset, Teacher, check_range, check_strength
from steerplug.preset.carrier import Carrier
from steerplug.preset.mix import Ingredient
from steerplug.session.carrying import NOT_COMPILED, why_prompt
from steerplug.session.prompts import joined
from steerplug.session.receipt import AppliedPreset
from steerplug.steering.file import read_steering
from steerplug.steering.identity import Identity, chat_template_hash
from steerplug.steering.value import Mix, Steering, Term
from steerplug.store.figures import is_quick
from steerplug.store.other_quantisation import is_another

log = logging.getLogger(__name__)

@dataclass(frozen=True)
class Resolved:
    """What presets are for one reply, and what a receipt says of them.

    Args:
        mix: the steering.
        ingredients: what a receipt says.
        teacher: the prompt that the chat is given, if presets are carried by theirs.
    """

    mix: Mix = field(default_factory=Mix)
    ingredients: tuple[AppliedPreset, ...] = ()
    teacher: Teacher | None = None

    @property
    def carrier(self) -> str:
        """What carries the presets, such as "steering", or "prompt, steering" where they differ."""
        return ", ".join(dict.fromkeys(applied.carrier for applied in self.ingredients))


SteeringWords = str | Preset | Mix | Steering | Resolved | None
"""How a caller says steering: a mix in words (`"0.8*pirate + concise"`, `"none"`, or a `Recipe`,
which was read before), a preset (at its default strength), a value, what was looked up before, or
None for none."""


@dataclass(frozen=True)
class _Portion:
    """An ingredient of a mix with what carries it; `allowed` are its preset's min and max."""

    steering: Steering | None
    applied: AppliedPreset
    teacher: Teacher | None = None
    allowed: tuple[float, float] | None = None

    def plus(self, strength: float) -> "_Portion":
        """Return the same at the sum of strengths, which must be within its range."""
        total = round(self.applied.strength + strength, 9)
        if self.steering is None:
            _check_prompt_strength(self.applied.name, total, self.applied.reason)
        elif self.allowed:
            check_range(self.steering.name, total, *self.allowed)
        return replace(self, applied=replace(self.applied, strength=total))

    @property
    def receipt(self) -> AppliedPreset:
        """What a receipt says of it; a preset that is taken away asks for no decoding."""
        if self.applied.strength > 0:
            return self.applied
        return replace(self.applied, format="", unsteered=(), steered=())


class Resolver:
    """Turns words into what a reply of one model is given.

    Args:
        model: the model.
        find: returns the steering that a preset is compiled to for it, if it is.
    """

    def __init__(self, model: Model, find: Callable[[Preset], Built | None]) -> None:
        self._model, self._find = model, find
        self._warned: set[Path] = set()

    def resolve(self, words: SteeringWords, carrier: Carrier = "auto") -> Resolved:
        """Return what presets are for a reply; nothing is fitted.

        Raises:
            PresetError, StrengthError, FitError, SteeringError, StoreError: see `errors`.
            RequestError: a preset cannot have that carrier.
        """
        if words is None:
            return Resolved()
        if isinstance(words, Resolved):
            return words
        if isinstance(words, (Mix, Steering)):
            _check_file_carrier("steering as a value", carrier)
            mix = Mix.of(words)
            self._check_geometry(mix)
            return Resolved(mix, tuple(_applied(t.steering, "", t.strength) for t in mix.terms))
        sums: dict[tuple[str, str], _Portion] = {}
        for portion in self._portions(words, carrier):
            key = portion.applied.name, portion.applied.digest
            strength = portion.applied.strength
            sums[key] = sums[key].plus(strength) if key in sums else portion
        portions = [portion for portion in sums.values() if portion.applied.strength]
        terms = [(p.applied.strength, p.steering) for p in portions if p.steering is not None]
        teachers = [portion.teacher for portion in portions if portion.teacher is not None]
        return Resolved(
            Mix(tuple(Term(strength, steering) for strength, steering in terms)),
            tuple(portion.receipt for portion in portions),
            joined(teachers),
        )

    def _portions(self, words: str | Preset, carrier: Carrier) -> Iterator[_Portion]:
        if isinstance(words, Preset):
            yield self._from_preset(words, Ingredient(words.name), carrier)
            return
        for ingredient, file in Recipe.read(words).parts:
            if file.preset is None:
                _check_file_carrier(f"{file.path}", carrier)
                yield self._from_file(file.path, ingredient)
            else:
                yield self._from_preset(file.preset, ingredient, carrier)

    def _from_preset(
        self, preset: Preset, ingredient: Ingredient, carrier: Carrier
    ) -> _Portion:
        check_strength(preset, ingredient.strength_at(preset.strength.default))
        check_carries(preset, carrier)
        built = None if carrier == "prompt" else self._find(preset)
        is_free = carrier == "auto" and preset.teacher is not None
        reason = why_prompt(preset, built) if is_free else ""
        if reason or carrier == "prompt":
            return _prompted(preset, ingredient, reason)
        if built is None:
            raise FitError(_missing(preset, self._model.name))
        instruction = None
        if carrier == "both" and preset.teacher is not None:
            instruction = preset.teacher.model_copy(update={"examples": ()})
        return _Portion(
            built.steering,
            replace(
                _said(preset, ingredient.strength_at(built.default_strength(preset))),
                digest=built.steering.digest,
                layers=tuple(built.steering.layers),
                carrier="both" if instruction else "steering",
                quick=built.is_quick,
            ),
            instruction,
            (preset.strength.min, preset.strength.max),
        )

    def _from_file(self, path: Path, ingredient: Ingredient) -> "_Portion":
        model = self._model
        steering, identity = read_steering(path, n_embd=model.n_embd, n_layer=model.n_layer)
        if identity is None:
            self._warn_of_shift(path)
            return _Portion(steering, _applied(steering, "", ingredient.strength_at(1.0)))
        if identity.architecture != model.architecture:
            raise SteeringError(
                f"{path} is for the architecture `{identity.architecture}`, and {model.name} is "
                f"`{model.architecture}`; build the preset for this model."
            )
        self._warn_of_near_miss(path, identity)
        strength = ingredient.strength_at(identity.strength_default)
        allowed = identity.strength_min, identity.strength_max
        check_range(identity.preset, strength, *allowed)
        applied = _applied(steering, identity.preset_version, strength)
        applied = replace(applied, quick=is_quick(identity.fidelity))
        return _Portion(steering, applied, allowed=allowed)

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
        if is_another(self._model.outer_norms, identity.outer_norms):
            differs.append("model of the same shape")
        elif identity.model != self._model.fingerprint:
            differs.append("quantisation, version or LoRA of the model")
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


def check_carries(preset: Preset, carrier: Carrier) -> None:
    """Refuse a carrier that a preset cannot have.

    Raises:
        RequestError: it has no prompt, or none that goes beside its steering.
    """
    teacher = preset.teacher
    if teacher is None and carrier in ("prompt", "both"):
        raise RequestError(
            f"`{preset.name}` is a contrast of texts and has no prompt, so the carrier {carrier!r} "
            "is not for it; leave the carrier out, or take 'steering'."
        )
    if teacher is not None and teacher.system is None and carrier == "both":
        raise RequestError(
            f"the teacher of `{preset.name}` has example turns and no system text, which is what "
            "the carrier 'both' adds to steering; take 'steering' or 'prompt'."
        )


def _check_file_carrier(what: str, carrier: Carrier) -> None:
    if carrier in ("prompt", "both"):
        raise RequestError(
            f"{what} holds numbers and no prompt, so the carrier {carrier!r} is not for it; leave "
            "the carrier out, or take 'steering'."
        )


def _missing(preset: Preset, model: str) -> str:
    """Say that a preset is not compiled, and the cure."""
    instead = (
        "or take the carrier 'prompt'" if preset.teacher else "no prompt can carry a contrast"
    )
    return (
        f"`{preset.name}` is not compiled for {model}; run `steerplug build {preset.name} -m "
        f"MODEL` ({instead})."
    )


def _prompted(preset: Preset, ingredient: Ingredient, reason: str) -> _Portion:
    """Return a preset as its prompt, whole."""
    strength = ingredient.strength_at(1.0)
    _check_prompt_strength(preset.name, strength, reason)
    applied = replace(
        _said(preset, strength), digest=preset.digest, carrier="prompt", reason=reason
    )
    return _Portion(None, applied, preset.teacher)


def _check_prompt_strength(name: str, strength: float, reason: str) -> None:
    if strength in (0.0, 1.0):
        return
    cure = f"run `steerplug build {name} -m MODEL` for steering, which has"
    if reason != NOT_COMPILED:
        cure = "take the carrier 'steering', which has"
    why = f" ({reason})" if reason else ""
    raise StrengthError(
        f"`{name}` is carried by its prompt here{why}, which has no strength {strength:g}; leave "
        f"the number out, or {cure}."
    )


def _said(preset: Preset, strength: float) -> AppliedPreset:
    """Return what a receipt says of a preset, whatever carries it."""
    return AppliedPreset(
        preset.name, preset.version, strength, "", (), preset.scope, preset.format,
        preset.origin.pack if preset.origin else "", preset.unsteered, steered=preset.steered,
    )  # fmt: skip


def _applied(steering: Steering, version: str, strength: float) -> AppliedPreset:
    return AppliedPreset(
        steering.name, version, strength, steering.digest, tuple(steering.layers), steering.scope
    )
