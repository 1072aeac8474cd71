"""The user prompts that ship with steerplug; the fit and held-out parts never mix."""

from functools import cache
from pathlib import Path
from typing import Literal

import yaml

Part = Literal["fit", "held_out", "neutral"]


@cache
def general_prompts(part: Part) -> tuple[str, ...]:
    """Return the shipped prompts of one part."""
    text = Path(__file__).with_name("general.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)[part])
