"""The questions that ship with steerplug: which a fit asks, and which it never sees.

The parts never mix. Of the held-out ones every second may choose a block or a strength, and the
others are there to report on.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import yaml

from steerplug.preset import Preset

Part = Literal["fit", "held_out", "neutral"]

Item = TypeVar("Item")

SWEPT = 8
"""How many questions choose a block or a strength."""


def general_prompts(part: Part) -> tuple[str, ...]:
    """Return the shipped prompts of one part."""
    return _general()[part]


@cache
def _general() -> dict[Part, tuple[str, ...]]:
    content = Path(__file__).with_name("general.yaml").read_bytes()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as quick, where it was built
    return {part: tuple(prompts) for part, prompts in yaml.load(content, loader).items()}


def to_fit(preset: Preset, count: int) -> list[str]:
    """Return at most `count` prompts to fit a preset on: its own, or shipped ones."""
    own = preset.fit.prompts
    return spread(general_prompts("fit") if own == "general" else own, count)


def for_choosing(preset: Preset, count: int) -> list[str]:
    """Return `count` held-out prompts to choose a block or a strength by; none is reported on."""
    return spread(_not_fitted(preset, "held_out")[1::2], count)


def for_reports(preset: Preset, part: Part = "held_out") -> list[str]:
    """Return all shipped prompts to report on: none was fitted on, and none chose anything."""
    return _not_fitted(preset, part)[::2]


def _not_fitted(preset: Preset, part: Part) -> list[str]:
    fitted = () if preset.fit.prompts == "general" else preset.fit.prompts
    return [prompt for prompt in general_prompts(part) if prompt not in fitted]


def spread(prompts: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` prompts, spread evenly over a list that is sorted by topic."""
    step = max(len(prompts) / count, 1.0)
    return [prompts[int(i * step)] for i in range(min(count, len(prompts)))]
