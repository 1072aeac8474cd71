"""A preset over ten turns: what becomes of it as the chat grows, and when it is switched.

The user's turns are scripts (see `scripts`), each asked forwards and backwards, and every arm (see
`arms`) hears its own greedy replies. By turn, over the chats; intervals are over the scripts::

    checks      share of replies that pass all of the preset's checks
    limit       share of replies that do not end by themselves
    repetition  of 4-grams within a reply, see `replies`
    again       share of replies that the chat has had before, word for word
    gap         sum KL(prompted || bare) / number of rows, nats per token
    left        sum KL(prompted || arm) / number of rows
    gap_closed  1 - sum KL(prompted || arm) / sum KL(prompted || bare)
    .._change   that of the last turn less that of the first; both hold the same questions

The last four are along the prompted model's replies. An arm reads them in its own manner behind the
chat that the prompted model had; `bare` in the gap reads them behind its own chat, so that the gap
is all that the prompt has changed up to there. What bare closes of it, reading the prompted
model's chat, the earlier replies carry alone; `paraphrased` tells how far a mere rewording of the
prompt is from it.

In the middle of a chat the preset is switched: `off`, steered before and bare from there on, and
`on`, the other way round. How near such a chat comes to one that was had so from its beginning,
over the turns behind the switch::

    nearness    1 - sum KL(own || switched) / sum KL(own || other)

All three read the replies of `own`, behind their own chats: for `off`, `own` is bare all along and
`other` steered; for `on`, `own` is steered and `other` bare. 1: as if it had always been so. A
request is steered as a whole, so earlier turns are read again after a switch, and nothing but their
words can tell of it. `prompt_off` and `prompt_on` are switched as well, by the prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import reading
from steerplug.evaluate.arms import Arm, arms_of
from steerplug.evaluate.dialogue import Dialogue, converse, distances, longest
from steerplug.evaluate.estimate import Estimate, as_json, change, ratio, share, share_change
from steerplug.evaluate.fidelity import BARE, PROMPTED, STEERED
from steerplug.evaluate.journal import figure_journal, reply_journal
from steerplug.evaluate.replies import repeated
from steerplug.evaluate.scripts import by_script, chats
from steerplug.fit.progress import AT_ONCE, Report, at_once, in_turn, silent, steps
from steerplug.preset import Preset
from steerplug.steering.value import Mix

REPLY_TOKENS = 48
OFF, ON, APART = "off", "on", "apart"

PROMPT = "prompt_"
"""The same with the prompt in the steering's place."""

Had = Mapping[str, Sequence[Dialogue]]
"""The chats that were had, by the arm, or by the switch."""
_ByName = Mapping[str, Sequence[float]]
"""Distances of one chat, turn by turn."""
Gaps = Sequence[_ByName]
"""For each chat the distances to the prompted model, by arm."""


def measure_turns(
    preset: Preset, mix: Mix, model: Model, n_chats: int | None = None, report: Report = silent
) -> dict[str, Any]:
    """Return what becomes of a preset over ten turns, as JSON values; what is kept is not redone.

    Args:
        preset: one with a teacher.
        mix: its steering, at the strength that is measured.
        model: the model.
        n_chats: how many of the chats are had; default: all.
        report: told how far the work is.

    Raises:
        ModelError: the model has no chat template, or no room for such chats.
        StoreError: what is done cannot be kept.
    """
    scripts, arms, template = chats(n_chats), arms_of(preset, mix), ChatTemplate.of(model)
    n_turns = len(scripts[0])
    half, n_cells = n_turns // 2, longest(template, scripts, arms.values(), REPLY_TOKENS)
    courses = {name: [arm] * n_turns for name, arm in arms.items()}
    for way, by in (("", STEERED), (PROMPT, PROMPTED)):
        for name, first, then in ((OFF, by, BARE), (ON, BARE, by)):
            courses[way + name] = [arms[first]] * half + [arms[then]] * (n_turns - half)
    had = _had(model, scripts, courses, n_cells, report)
    measured = partial(distances, template=template, kept=figure_journal(model.fingerprint))
    gaps, behind = list[_ByName](), list[dict[str, _ByName]]()
    with reading(model, n_cells) as reader:
        for i in steps(range(len(scripts)), "reading chats", report):
            chat = {name: some[i] for name, some in had.items()}
            gaps.append(_gaps(partial(measured, reader), arms, chat))
            behind.append(_behind(partial(measured, reader), arms, chat, range(half, n_turns)))
    return as_json({
        "n_chats": len(scripts), "n_scripts": len(by_script(np.ones(len(scripts)))),
        "n_turns": n_turns, "reply_tokens": REPLY_TOKENS,
        "gap": [_per_row(APART, had[PROMPTED], gaps, turn) for turn in range(n_turns)],
        "arms": {
            name: _replies(preset, had[name], n_turns) | _closed(name, had[PROMPTED], gaps, n_turns)
            for name in arms
        },
        "switched": {
            name: {
                "nearness": _nearness([chat[name] for chat in behind]),
                "checks": _kept_behind(preset, had, (BARE, name, STEERED, PROMPT + name), half),
            }
            for name in (OFF, ON)
        },
    })  # fmt: skip


def _gaps(
    measured: Callable[..., _ByName], arms: Mapping[str, Arm], chat: Mapping[str, Dialogue]
) -> _ByName:
    """Return how far the arms are from the prompted model along its chat, turn by turn."""
    own = chat[PROMPTED]
    others = {name: (own, arm) for name, arm in arms.items() if name != PROMPTED}
    others[APART] = chat[BARE], arms[BARE]
    return measured(own=(own, arms[PROMPTED]), others=others, turns=range(len(own.replies)))


def _behind(
    measured: Callable[..., _ByName], arms: Mapping[str, Arm], chat: Mapping[str, Dialogue],
    turns: range,
) -> dict[str, _ByName]:  # fmt: skip
    """Return how far a switched chat, and the other, are from one that was always so."""
    return {
        name: measured(
            own=(chat[to], arms[to]), turns=turns,
            others={"switched": (chat[name], arms[to]), "other": (chat[other], arms[other])},
        )
        for name, to, other in ((OFF, BARE, STEERED), (ON, STEERED, BARE))
    }  # fmt: skip


def _nearness(chats: Sequence[_ByName]) -> Estimate:
    switched, other = ([sum(chat[name]) for chat in chats] for name in ("switched", "other"))
    return ratio(by_script(np.subtract(other, switched)), by_script(other))


def _had(
    model: Model, scripts: Sequence[tuple[str, ...]], courses: Mapping[str, Sequence[Arm]],
    n_cells: int, report: Report,
) -> Had:  # fmt: skip
    """Have all chats, those of one course side by side, with room for all of these at once."""
    template, cache = ChatTemplate.of(model), reply_journal(model.fingerprint)
    engine = Engine(model, n_ctx=n_cells, n_cells=min(len(scripts), AT_ONCE) * n_cells)
    talk = partial(converse, engine, template, n_tokens=REPLY_TOKENS, cache=cache)
    with closing(engine):
        return {
            name: at_once(partial(talk, arms=arms), scripts, f"chatting: {name}", part)
            for name, arms, part in in_turn(courses, report)
        }


def _replies(preset: Preset, chats: Sequence[Dialogue], n_turns: int) -> dict[str, Any]:
    """Return the figures of an arm's replies, turn by turn."""
    replies = [[chat.replies[turn] for chat in chats] for turn in range(n_turns)]
    grams = [[repeated(reply.tokens) for reply in some] for some in replies]
    asked = by_script(np.ones(len(chats)))

    def shares(answers: Sequence[Sequence[bool]]) -> list[Estimate]:
        return [share(by_script(some), asked) for some in answers]

    figures: dict[str, Any] = {
        "limit": shares([[len(reply.tokens) >= REPLY_TOKENS for reply in some]
                         for some in replies]),
        "repetition": [ratio(*map(by_script, zip(*some, strict=True))) for some in grams],
        "again": shares([[_said_before(chat, turn) for chat in chats] for turn in range(n_turns)]),
    }
    if preset.checks:
        passed = [[preset.passes(reply.text) for reply in some] for some in replies]
        first, last = by_script(passed[0]), by_script(passed[-1])
        figures["checks"] = shares(passed)
        figures["checks_over_all"] = share(by_script(np.sum(passed, axis=0)), n_turns * asked)
        figures["checks_change"] = share_change(last, first, asked)
    return figures


def _closed(
    name: str, prompted: Sequence[Dialogue], gaps: Gaps, n_turns: int
) -> dict[str, Any]:
    """Return how near an arm is to the prompted model; that one itself has no such figures."""
    if name == PROMPTED:
        return {}

    def terms(turn: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        apart, left = (by_script([gap[of][turn] for gap in gaps]) for of in (APART, name))
        return apart - left, apart

    return {
        "left": [_per_row(name, prompted, gaps, turn) for turn in range(n_turns)],
        "gap_closed": [ratio(*terms(turn)) for turn in range(n_turns)],
        "gap_closed_over_all": ratio(*np.sum([terms(turn) for turn in range(n_turns)], axis=0)),
        "gap_closed_change": change(terms(n_turns - 1), terms(0)),
    }


def _per_row(name: str, prompted: Sequence[Dialogue], gaps: Gaps, turn: int) -> Estimate:
    """Return how far an arm is from the prompted model at a turn, nats per row."""
    n_rows = [len(chat.replies[turn].tokens) + 1 for chat in prompted]
    return ratio(by_script([gap[name][turn] for gap in gaps]), by_script(n_rows))


def _kept_behind(
    preset: Preset, had: Had, names: Sequence[str], half: int
) -> dict[str, Estimate] | None:
    """Return the share of checks kept in the second half of some chats."""
    if not preset.checks:
        return None
    return {
        name: share(
            by_script([sum(preset.passes(reply.text) for reply in chat.replies[half:])
                       for chat in had[name]]),
            by_script([len(chat.replies) - half for chat in had[name]]),
        )
        for name in names
    }  # fmt: skip


def _said_before(chat: Dialogue, turn: int) -> bool:
    return chat.replies[turn].text in [reply.text for reply in chat.replies[:turn]]
