"""What a preset promises about a reply, as rules a program can judge.

Contract: `check.passes(reply)` looks at the reply alone, and an empty reply passes nothing. Phrases
are compared without regard to case, runs of white space or the shape of apostrophes, and as whole
words: "sure" is not found in "measure".
"""

import json
import re
from abc import abstractmethod
from typing import Annotated, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _no_control_characters(text: str) -> str:
    bad = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
    if bad:
        raise ValueError(f"holds the control character {bad.group()!r}; remove it")
    return text


TEXT = AfterValidator(_no_control_characters)
Phrase = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S"), TEXT]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1, max_length=100)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]


class Frozen(BaseModel):
    """Base of all parts of a preset: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Check(Frozen):
    def passes(self, reply: str) -> bool:
        """Say whether the reply keeps the promise."""
        return bool(reply.strip()) and self._holds(reply)

    @abstractmethod
    def _holds(self, reply: str) -> bool: ...


class Json(_Check):
    """The whole reply is one JSON object or array, with nothing around it."""

    kind: Literal["json"]

    def _holds(self, reply: str) -> bool:
        try:
            value = json.loads(reply, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict | list)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Excludes(_Check):
    """None of the phrases occurs in the reply."""

    kind: Literal["excludes"]
    phrases: Phrases = Field(description="Not one of these occurs.", examples=[["As an AI"]])

    def _holds(self, reply: str) -> bool:
        return not any(_occurs(phrase, reply) for phrase in self.phrases)


class Includes(_Check):
    """At least one of the phrases occurs in the reply."""

    kind: Literal["includes"]
    phrases: Phrases = Field(description="At least one occurs.", examples=[["ahoy", "matey"]])

    def _holds(self, reply: str) -> bool:
        return any(_occurs(phrase, reply) for phrase in self.phrases)


class StartsWith(_Check):
    """The reply begins with one of the phrases."""

    kind: Literal["starts_with"]
    phrases: Phrases = Field(description="The reply begins with one.", examples=[["Dear"]])

    def _holds(self, reply: str) -> bool:
        return any(re.match(_pattern(phrase), _plain(reply)) for phrase in self.phrases)


class MaxWords(_Check):
    """The reply has at most `count` words, split at white space."""

    kind: Literal["max_words"]
    count: Count = Field(description="The most words.", examples=[40])

    def _holds(self, reply: str) -> bool:
        return len(reply.split()) <= self.count


class MinWords(_Check):
    """The reply has at least `count` words, split at white space."""

    kind: Literal["min_words"]
    count: Count = Field(description="The fewest words.", examples=[20])

    def _holds(self, reply: str) -> bool:
        return len(reply.split()) >= self.count


class Bullets(_Check):
    """The reply is a list: two or more lines begin like `- ` or `1. `, and fewer lines do not."""

    kind: Literal["bullets"]

    def _holds(self, reply: str) -> bool:
        lines = [line for line in reply.splitlines() if line.strip()]
        n_bullets = sum(bool(re.match(r"\s*([-*+•]|[0-9]{1,3}[.)])\s+\S", line)) for line in lines)
        return n_bullets >= 2 and n_bullets > len(lines) - n_bullets


class Language(_Check):
    """More of the reply's words are function words of this language than of any other known one.

    A rough judge, for replies of a sentence or more; a tie, or no function word at all, fails.
    """

    kind: Literal["language"]
    code: Literal["en", "fr", "de", "es"] = Field(description="The language.", examples=["fr"])

    def _holds(self, reply: str) -> bool:
        words = re.findall(r"[^\W\d_]+", reply.casefold())
        counts = {code: sum(w in known for w in words) for code, known in _FUNCTION_WORDS.items()}
        own = counts.pop(self.code)
        return own > max(counts.values())


Check = Annotated[
    Json | Excludes | Includes | StartsWith | MaxWords | MinWords | Bullets | Language,
    Field(discriminator="kind"),
]


def _plain(text: str) -> str:
    """Return `text` as phrases are compared: lower case, single spaces, straight apostrophes."""
    return " ".join(text.translate({0x2019: "'", 0x2018: "'"}).casefold().split())


def _pattern(phrase: str) -> str:
    """Return a pattern that finds `phrase` as whole words; its own signs need no boundary."""
    plain = _plain(phrase)
    before = r"(?<!\w)" if re.match(r"\w", plain) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", plain) else ""
    return f"{before}{re.escape(plain)}{after}"


def _occurs(phrase: str, reply: str) -> bool:
    return re.search(_pattern(phrase), _plain(reply)) is not None


_FUNCTION_WORDS = {
    code: frozenset(words.split())
    for code, words in {
        "en": (
            "the and of to is are was were that this it with for you your i he she they we "
            "not be have has had but at by from which what can will would there their if as "
            "an or"
        ),
        "fr": (
            "le la les des du un une et est sont était dans que qui pour pas vous nous je il "
            "elle ils avec sur ce cette mais au aux plus par ne se son sa ses mon ou où être "
            "avoir"
        ),
        "de": (
            "der die das den dem des ein eine einen und ist sind war nicht mit für auf sie er "
            "es wir ich von zu im auch als aber wie bei oder nach werden wird kann haben hat "
            "sich"
        ),
        "es": (
            "el la los las un una unos y es son era en que de del para no con por se su sus "
            "lo al más pero como yo usted ella ellos está están muy ser hay o también"
        ),
    }.items()
}
