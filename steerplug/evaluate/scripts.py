"""What ships to measure with: chats of ten turns, pasted overrides, and prompts in other words.

Presets are fitted on none of it.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from steerplug.preset import Preset, Teacher


@dataclass(frozen=True)
class Override:
    """A text that would lead a model away from its instructions, and the question before it."""

    kind: str
    question: str
    pasted: str

    @property
    def message(self) -> str:
        """What the user sends."""
        return f"{self.question}\n\n{self.pasted}"


def chats(count: int | None = None) -> list[tuple[str, ...]]:
    """Return the users' turns of each chat, each forwards and backwards; of the first ones alone.

    So turn one and turn ten hold the same questions, and so do any two that lie as far from the
    ends.
    """
    scripts = [tuple(turns) for turns in _read("chats").values()]
    return [order for script in scripts for order in (script, script[::-1])][:count]


def by_script(terms: ArrayLike) -> NDArray[np.float64]:
    """Return the sums over a script's two ways of what is told of each of the `chats`.

    The two are asked the same questions, so they are no two draws. Shapes: (n_chats,) and
    (n_scripts,).
    """
    terms = np.asarray(terms, np.float64)
    return np.add.reduceat(terms, np.arange(0, len(terms), 2))


def overrides() -> list[Override]:
    """Return all overrides."""
    return [Override(kind, **one) for kind, some in _read("overrides").items() for one in some]


def reworded(preset: Preset) -> Teacher | None:
    """Return a shipped preset's prompt in other words, its example turns in reverse order.

    None for other presets, of which nobody has written it.
    """
    words = _read("rewordings").get(preset.name)
    if words is None or preset.teacher is None:
        return None
    return Teacher(system=words, examples=preset.teacher.examples[::-1])


@cache
def _read(name: str) -> dict[str, Any]:
    content = Path(__file__).with_name(f"{name}.yaml").read_bytes()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    read: dict[str, Any] = yaml.load(content, loader)
    return read
