"""The page of a preset library: each preset in a sentence, its figures, a reply before and after.

`steerplug page` writes it; the examples can be read back from it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerplug.files.text import first_sentence, markdown
from steerplug.preset import Preset
from steerplug.store.figures import Figures

MARK = "<!-- made by `steerplug page`; edit the presets, not this file -->"
_FENCE = "````"
_EXAMPLE = re.compile(
    r"^## (?P<name>\S+)\n.*?^\*(?P<question>[^\n]*)\*\n.*?"
    rf"^{_FENCE}text\n(?P<bare>.*?)\n{_FENCE}\n.*?^{_FENCE}text\n(?P<steered>.*?)\n{_FENCE}$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    """A question, and the bare and the steered model's reply."""

    question: str
    bare: str
    steered: str


@dataclass(frozen=True)
class Entry:
    """What the page shows of a preset; `fidelity` as its steering file holds it, or empty."""

    preset: Preset
    fidelity: Mapping[str, Any]
    example: Example


def page(entries: Sequence[Entry], model: str, max_tokens: int) -> str:
    """Return the page in Markdown; the same entries give the same text."""
    rows = "\n".join(map(_row, entries))
    sections = "\n".join(map(_section, entries))
    return f"""\
{MARK}

# Presets

`steerplug run --steer NAME "..."` uses one, `steerplug show NAME` says what it replaces. Figures
and replies are those of {model}; `steerplug eval NAME -m MODEL` measures them on yours.

| preset | what it does | gap closed (95 %) | checks kept | prompt tokens saved |
|---|---|---|---|---|
{rows}

*Gap closed*: how much nearer the steered model is to the prompted one than the bare model is, on
unseen questions. *Checks kept*: steered replies that keep the preset's own checks. A preset made
from a contrast replaces no prompt, so it has neither gap nor tokens. Each preset below is asked
another question that it was never fitted on; replies are greedy, at most {max_tokens} tokens long,
and not chosen.

{sections}"""


def examples_of(text: str) -> dict[str, Example]:
    """Return the examples that a page holds, by the preset's name."""
    return {
        match["name"]: Example(match["question"], match["bare"], match["steered"])
        for match in _EXAMPLE.finditer(text)
    }


def _row(entry: Entry) -> str:
    preset = entry.preset
    cells = (
        f"[`{preset.name}`](#{preset.name})", markdown(first_sentence(preset.description)),
        *Figures("", entry.fidelity).cells(),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _section(entry: Entry) -> str:
    preset, example = entry.preset, entry.example
    return f"""\
## {preset.name}

{markdown(preset.description)}

*{example.question}*

bare:

{_FENCE}text
{example.bare}
{_FENCE}

steered by `{preset.name}`:

{_FENCE}text
{example.steered}
{_FENCE}
"""
