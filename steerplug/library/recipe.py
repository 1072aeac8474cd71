"""A mix in words, read once: its ingredients, and what each refers to.

Whoever asks what a mix means in the course of one call, such as a fingerprint and a reply, is
handed the same recipe. It is not kept beyond the call, because a preset's file may change.
"""

from collections.abc import Sequence
from typing import Self

from steerplug.library.presets import LibraryFile, look_up
from steerplug.preset.mix import Ingredient, parse_mix

Part = tuple[Ingredient, LibraryFile]


class Recipe(str):
    """The text of a mix that knows its parts; for whoever wants only words, it is these words.

    A copy and a pickle of it are the words alone.
    """

    __slots__ = ("_parts",)
    _parts: tuple[Part, ...]

    def __new__(cls, text: str, ingredients: Sequence[Ingredient]) -> Self:
        """Look up the ingredients of a mix.

        Raises:
            PresetError: a preset is not there or not good.
        """
        recipe = super().__new__(cls, text)
        recipe._parts = tuple(
            (ingredient, look_up(ingredient.reference)) for ingredient in ingredients
        )
        return recipe

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a mix and look up its ingredients; of a recipe, return it.

        Raises:
            PresetError: the text is no mix, or a preset is not there or not good.
        """
        return text if isinstance(text, cls) else cls(text, parse_mix(text))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The ingredients, each with what it refers to."""
        return self._parts

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)
