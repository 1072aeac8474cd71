"""What `steerplug eval` measures: a preset, or a mix as one preset."""

from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING

from steerplug.errors import PresetError, RequestError

if TYPE_CHECKING:
    from steerplug.preset import Preset


@dataclass(frozen=True)
class Subject:
    """What is measured: a mix in words, and as one preset.

    `presets` are those that it adds; `alone` says whether it is of one.
    """

    words: str
    preset: "Preset"
    presets: "tuple[Preset, ...]"
    alone: bool


def subject_of(words: str, strength: float | None) -> Subject:
    """Read a mix; a strength of its own goes with one preset that says none."""
    from steerplug.evaluate.mixed import mixed
    from steerplug.library.presets import look_up
    from steerplug.preset.mix import format_mix, parse_mix

    ingredients = parse_mix(words)
    if not ingredients:
        raise RequestError(f"`{words}` steers nothing; name a preset to measure.")
    if strength is not None:
        first, *others = ingredients
        if others or first.strength is not None:
            raise RequestError(
                f"`{words}` says its strengths itself; leave out --strength {strength:g}, or name "
                "one preset without a number."
            )
        sign = -first.sign if strength < 0 else first.sign
        ingredients = (replace(first, strength=abs(strength), sign=sign),)
    files = [look_up(ingredient.reference) for ingredient in ingredients]
    for file in files:
        if file.preset is None:
            raise PresetError(
                f"{file.path} holds steering numbers and no prompt to compare them with; name the "
                "preset's YAML file."
            )
    presets = [file.preset for file in files if file.preset]
    adds = [ingredient.sign > 0 for ingredient in ingredients]
    added = tuple(dict.fromkeys(compress(presets, adds)))
    return Subject(format_mix(ingredients), mixed(presets, adds), added, len(presets) == 1)
