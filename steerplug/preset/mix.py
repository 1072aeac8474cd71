"""The mix language: `0.8*love-hate + 0.5*weddings - cheerful`, or `none`.

Contract::

    mix         none | [+|-] ingredient { (+|-) ingredient }
    ingredient  [ [+|-] number * ] reference
    reference   a name or path without spaces, plus or star; any text in "..." or '...', in which
                the closing quote is written twice to mean itself

A minus inside a word belongs to the word: `a-b` is one name, `a - b` and `a -b` are two. A mix is
words only: nothing is looked up here, and ranges are checked where the preset is known
(`preset.check_strength`).
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from steerplug.errors import PresetError, StrengthError

MAX_LENGTH = 1000
MAX_INGREDIENTS = 16
NONE = "none"

_NUMBER = re.compile(
    r"([+-]?)((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?)", re.IGNORECASE
)
_TIMES = re.compile(r"\s*\*")
_WORD = re.compile(r"[\w./\\~][\w./\\~:@#%=-]*")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"|\'((?:[^\']|\'\')*)\'')


@dataclass(frozen=True)
class Ingredient:
    """One preset of a mix: `sign * strength` of `reference`.

    Args:
        reference: a preset's name, or the path of a preset or steering file.
        strength: not negative; None means the preset's own default.
        sign: 1, or -1 where the mix subtracts.

    Raises:
        StrengthError: the strength is negative, NaN or infinite.
    """

    reference: str
    strength: float | None = None
    sign: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 <= self.strength < math.inf:
            raise StrengthError(
                f"the strength of `{self.reference}` is {self.strength}; give a finite number that "
                "is not negative, and the sign apart."
            )

    def strength_at(self, default: float) -> float:
        """Return the signed strength, given the preset's default."""
        return self.sign * (default if self.strength is None else self.strength)


def parse_mix(text: str) -> tuple[Ingredient, ...]:
    """Return the ingredients of a mix, in its order; `none` has no ingredients.

    Raises:
        PresetError: the text is not a mix; the sentence points at the place.
        StrengthError: a strength is NaN or infinite.
    """
    if len(text) > MAX_LENGTH:
        raise PresetError(
            f"the mix `{text[:40]}...` has {len(text)} characters; keep it under {MAX_LENGTH + 1}."
        )
    if text.strip() == NONE:
        return ()
    return _Reader(text).read()


def format_mix(ingredients: tuple[Ingredient, ...]) -> str:
    """Return the text that `parse_mix` reads as `ingredients`."""
    if not ingredients:
        return NONE
    first, *others = ingredients
    text = ("-" if first.sign < 0 else "") + _format(first)
    return text + "".join(f" {'-' if i.sign < 0 else '+'} {_format(i)}" for i in others)


def _format(ingredient: Ingredient) -> str:
    reference = ingredient.reference
    if reference == NONE or not _WORD.fullmatch(reference) or _NUMBER.fullmatch(reference):
        reference = '"' + reference.replace('"', '""') + '"'
    return reference if ingredient.strength is None else f"{ingredient.strength!r}*{reference}"


class _Reader:
    """Reads a mix from left to right; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def read(self) -> tuple[Ingredient, ...]:
        sign = self._sign() or 1
        ingredients = [self._ingredient(sign)]
        while self._skip_space():
            operator = self._sign()
            if operator is None:
                self._refuse(
                    "the number goes first, as in `0.8*pirate`"
                    if self.text[self.at] == "*"
                    else "`+` or `-` belongs here; quote a path that holds spaces or signs"
                )
            if len(ingredients) == MAX_INGREDIENTS:
                self._refuse(f"a mix has at most {MAX_INGREDIENTS} ingredients; drop the smallest")
            ingredients.append(self._ingredient(operator))
        return tuple(ingredients)

    def _skip_space(self) -> bool:
        """Skip white space; say whether anything follows."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)

    def _sign(self) -> Literal[1, -1] | None:
        self._skip_space()
        sign = self.text[self.at : self.at + 1]
        if sign not in ("+", "-"):
            return None
        self.at += 1
        return 1 if sign == "+" else -1

    def _ingredient(self, sign: Literal[1, -1]) -> Ingredient:
        self._skip_space()
        number = _NUMBER.match(self.text, self.at)
        star = _TIMES.match(self.text, number.end()) if number else None
        if number is None or star is None:
            return Ingredient(self._reference(), None, sign)
        strength = float(number[2])
        if not math.isfinite(strength):
            raise StrengthError(
                f"the strength `{number[0]}` in the mix `{self.text}` is not a finite number; "
                "give one such as 0.8."
            )
        self.at = star.end()
        return Ingredient(self._reference(), strength, _times(sign, number[1]))

    def _reference(self) -> str:
        self._skip_space()
        if quoted := _QUOTED.match(self.text, self.at):
            mark = quoted[0][0]
            reference = quoted[0][1:-1].replace(mark * 2, mark)
            if not reference.strip() or not reference.isprintable():
                self._refuse("an empty or unprintable name is in quotes; write a name or path")
            self.at = quoted.end()
            return reference
        word = _WORD.match(self.text, self.at)
        if word is None:
            self._refuse("a preset's name or path belongs here, such as `pirate` or `0.8*pirate`")
        if word[0] == NONE:
            self._refuse("`none` stands alone, for no steering at all")
        if _NUMBER.fullmatch(word[0]) and self.text.startswith(",", word.end()):
            self._refuse("a number has a point, as in `0.5*pirate`")
        if _NUMBER.fullmatch(word[0]):
            self._refuse(f"the strength {word[0]} has no preset; write `{word[0]}*name`")
        self.at = word.end()
        return word[0]

    def _refuse(self, why: str) -> NoReturn:
        if not self.text.strip():
            raise PresetError("the mix is empty; name a preset, or write `none` for no steering.")
        rest = self.text[self.at :].strip()
        place = f"at `{rest}`" if rest else "at its end"
        raise PresetError(f"the mix `{self.text}` cannot be read {place}: {why}.")


def _times(sign: Literal[1, -1], other: str) -> Literal[1, -1]:
    if other != "-":
        return sign
    return -1 if sign == 1 else 1
