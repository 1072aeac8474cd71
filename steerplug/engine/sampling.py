"""How tokens are drawn: llama.cpp's settings in one table, which every door reads.

Each setting stands here once, with its default, its range and its meaning. Nothing here loads
llama.cpp; the chain that draws is in `engine.sampling`.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from steerplug.errors import RequestError

_MAX_SEED = 2**32 - 2
_MAX_TOKENS = 1_000_000
_MAX_BIAS = 100.0
MAX_BREAKERS = 32
_MINUS_ONE: Mapping[str, int | None] = {"seed": None, "top_k": 0}
"""What -1 stands for where it is no number of the range: a fresh seed, and all tokens."""


@dataclass(frozen=True)
class Setting:
    """What a setting may be, and does.

    Args:
        meaning: what it does, in a line.
        default: what it is if nobody says.
        low, high: its range.
        whole: whether it is a whole number.
    """

    meaning: str
    default: float | None
    low: float
    high: float
    whole: bool

    def check(self, name: str, value: object) -> None:
        """Refuse a value that is no number of the range.

        Raises:
            RequestError: what is wrong with it.
        """
        low, high = self.low, self.high
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RequestError(f"{name} is {value!r}; give a number such as {low}.")
        if self.whole and not isinstance(value, int):
            raise RequestError(f"{name} is {value}; give a whole number such as {low}.")
        if not math.isfinite(value) or not low <= value <= high:
            raise RequestError(f"{name} is {value}; choose {low} to {high}.")


def _real(default: float, low: float, high: float, meaning: str) -> Any:
    setting = Setting(meaning, default, low, high, whole=False)
    return field(default=default, metadata={"setting": setting})


def _whole(default: int | None, low: int, high: int, meaning: str) -> Any:
    setting = Setting(meaning, default, low, high, whole=True)
    return field(default=default, metadata={"setting": setting})


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Names, defaults and order are llama.cpp's; `SETTINGS` has the meanings.

    Args:
        temperature, top_k, top_p, min_p, repeat_penalty, seed: see `SETTINGS`.
        logit_bias: what is added to the logits of single tokens, -100 to 100.
        dry_sequence_breakers: texts that end what DRY takes for a repetition.

    Raises:
        RequestError: a value is out of range.
    """

    temperature: float = _real(0.8, 0.0, 10.0, "0 is greedy.")
    top_k: int = _whole(40, 0, _MAX_TOKENS, "Keep the k most likely tokens; 0 or -1 keeps all.")
    top_p: float = _real(0.95, 0.0, 1.0, "Keep the most likely tokens up to this probability.")
    min_p: float = _real(0.05, 0.0, 1.0, "Keep tokens this share as likely as the best.")
    repeat_penalty: float = _real(1.0, 0.1, 10.0, "Above 1 makes recent tokens less likely.")
    seed: int | None = _whole(None, 0, _MAX_SEED, "Repeats a reply; -1 draws a fresh one.")
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    frequency_penalty: float = _real(
        0.0, -100.0, 100.0, "Taken off the logit of a recent token, once for each time it came."
    )
    presence_penalty: float = _real(
        0.0, -100.0, 100.0, "Taken off the logit of a recent token, however often it came."
    )
    repeat_last_n: int = _whole(
        64, -1, _MAX_TOKENS,
        "How many tokens are recent, of prompt and reply; 0: none, -1: as many as the context has.",
    )  # fmt: skip
    typical_p: float = _real(
        1.0, 0.0, 1.0, "Keep the most typical tokens up to this probability; 1 keeps all."
    )
    top_n_sigma: float = _real(
        -1.0, -1.0, 100.0, "Keep logits within n standard deviations of the best; 0 or -1: all."
    )
    xtc_probability: float = _real(
        0.0, 0.0, 1.0, "How often XTC drops all tokens above its threshold but the least likely."
    )
    xtc_threshold: float = _real(
        0.1, 0.0, 1.0, "How likely a token is that XTC may drop; above 0.5 it drops none."
    )
    dry_multiplier: float = _real(
        0.0, 0.0, 100.0, "How hard DRY penalises a token that goes on with a repetition; 0: not."
    )
    dry_base: float = _real(1.75, 1.0, 100.0, "By what DRY's penalty grows with each token.")
    dry_allowed_length: int = _whole(
        2, 0, _MAX_TOKENS, "How long a repetition DRY leaves alone."
    )
    dry_penalty_last_n: int = _whole(
        64, -1, _MAX_TOKENS,
        "In how many tokens DRY looks for repetitions; 0: none, -1: as many as the context has.",
    )  # fmt: skip
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    mirostat: int = _whole(
        0, 0, 2, "1 or 2: draw by this version of Mirostat, which top_k to xtc make way for."
    )
    mirostat_tau: float = _real(5.0, 0.0, 100.0, "The surprise that Mirostat aims at.")
    mirostat_eta: float = _real(0.1, 0.0, 10.0, "How fast Mirostat learns.")
    dynatemp_range: float = _real(
        0.0, 0.0, 10.0, "The temperature varies by this much to either side, with the entropy."
    )
    dynatemp_exponent: float = _real(1.0, 0.0, 10.0, "How the temperature follows the entropy.")

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            value = canonical(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if value is not None or name != "seed":
                setting.check(name, value)
        for token, bias in self.logit_bias.items():
            _BIAS.check("logit_bias", bias)
            if isinstance(token, bool) or not isinstance(token, int):
                raise RequestError(f"logit_bias names token {token!r}; give its number.")
        object.__setattr__(self, "dry_sequence_breakers", _breakers(self.dry_sequence_breakers))

    def seeded(self) -> "Sampling":
        """Return the same with a seed, drawn now if there was none."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(_MAX_SEED))

    @property
    def penalises(self) -> bool:
        """Whether recent tokens become more or less likely."""
        changes = self.repeat_penalty != 1 or self.frequency_penalty or self.presence_penalty
        return bool(self.repeat_last_n and changes)

    @property
    def breaks_repetitions(self) -> bool:
        """Whether DRY acts."""
        return bool(self.dry_multiplier and self.dry_penalty_last_n)


SETTINGS: Mapping[str, Setting] = {
    entry.name: entry.metadata["setting"] for entry in fields(Sampling) if entry.metadata
}
"""Every setting that is a number, by name."""

_BIAS = Setting("", 0.0, -_MAX_BIAS, _MAX_BIAS, whole=False)


def canonical(name: str, value: Any) -> Any:
    """Return a setting's value, or what it stands for where llama.cpp says -1."""
    is_minus_one = name in _MINUS_ONE and isinstance(value, int) and value == -1
    return _MINUS_ONE[name] if is_minus_one else value


def _breakers(texts: object) -> tuple[str, ...]:
    """Return the texts that end a repetition; llama.cpp reads each up to its first NUL."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise RequestError(f'dry_sequence_breakers is {texts!r}; give a list such as ["\\n"].')
    if len(texts) > MAX_BREAKERS:
        raise RequestError(
            f"dry_sequence_breakers has {len(texts)} texts; give at most {MAX_BREAKERS}."
        )
    for text in texts:
        if not isinstance(text, str) or not text or "\0" in text:
            raise RequestError(f"dry_sequence_breakers holds {text!r}; give texts, none empty.")
    return tuple(texts)
