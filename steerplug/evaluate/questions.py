"""What a preset is measured on: shipped questions it was never fitted on, or the user's own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steerplug.errors import RequestError, unreadable
from steerplug.fit.questions import Part, for_reports, spread
from steerplug.preset import Preset

QUESTIONS, FURTHER, NEUTRAL = 12, 28, 6
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Questions:
    """What a report asks.

    Args:
        compared: what users ask; replies to these are compared token by token.
        further: more of that, whose greedy replies count as whole replies alone.
        neutral: where the preset should not matter.
    """

    compared: Sequence[str]
    further: Sequence[str]
    neutral: Sequence[str]


def reported_on(preset: Preset, own: Sequence[str] = ()) -> Questions:
    """Return what a preset is reported on: shipped questions, or a user's own in their place."""
    neutral = unseen(preset, NEUTRAL, "neutral")
    if own:
        return Questions(own, (), neutral)
    compared = unseen(preset, QUESTIONS)
    others = [question for question in for_reports(preset) if question not in compared]
    return Questions(compared, spread(others, FURTHER), neutral)


def unseen(preset: Preset, count: int, part: Part = "held_out") -> list[str]:
    """Return `count` shipped prompts to report on, spread over their topics."""
    return spread(for_reports(preset, part), count)


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file: one a line, or a JSON list of texts.

    Raises:
        RequestError: the file is not there, not UTF-8, larger than 1 MB, or holds no prompt.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        cure = "name a text file of one prompt a line"
        raise RequestError(f"the prompts {path} {unreadable(error, cure)}") from None
    if len(content) > MAX_BYTES:
        raise RequestError(f"the prompts {path} take more than 1 MB; choose a few hundred of them.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the prompts {path} are not UTF-8 text (byte {error.start}); save them as UTF-8."
        ) from None
    listed = _listed(text, path) if text.lstrip().startswith("[") else text.splitlines()
    prompts = [prompt.strip() for prompt in listed if prompt.strip()]
    if not prompts:
        raise RequestError(f"the prompts {path} are empty; write one prompt a line.")
    return list(dict.fromkeys(prompts))


def _listed(text: str, path: Path) -> list[str]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"the prompts {path} begin like a JSON list and are not one ({error}); "
            "correct that, or write one prompt a line."
        ) from None
    if not all(isinstance(prompt, str) for prompt in listed):
        wrong = next(prompt for prompt in listed if not isinstance(prompt, str))
        raise RequestError(
            f"the prompts {path} hold {json.dumps(wrong)[:40]}, which is no text; put every "
            "prompt in quotes."
        )
    return list(listed)
