"""Presets together: a sum of their steering beside their prompts, in every order.

    order a, b   both prompts as one (see `mixed`), a's before b's; the last one read often wins
    sum          all steering at the strengths that were asked for
    sum x0.71    the same with all strengths multiplied by that
    joint        one steering that was fitted on all prompts at once, if there is one

Of greedy replies to the same questions, each arm's share that passes the checks of each preset, and
of all of them (`all`). `gap_closed` is by order: of the gap between the bare model and the one that
is prompted in this order, on this one's greedy replies to some of the questions.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import permutations
from math import sqrt
from typing import Any

import numpy as np

from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.evaluate.arms import Arm
from steerplug.evaluate.dialogue import Dialogue, converse, distances, longest
from steerplug.evaluate.estimate import Estimate, as_json, ratio, share
from steerplug.evaluate.fidelity import BARE
from steerplug.evaluate.journal import figure_journal, reply_journal
from steerplug.evaluate.mixed import mixed
from steerplug.evaluate.questions import unseen
from steerplug.fit.progress import Report, at_once, in_turn, silent, steps
from steerplug.preset import Preset
from steerplug.steering.value import Mix

N_QUESTIONS, N_COMPARED = 24, 8
REPLY_TOKENS = 48
SUM, JOINT, ORDER = "sum", "joint", "order"


def measure_orders(
    presets: Sequence[Preset],
    mix: Mix,
    model: Model,
    joint: Mix | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Return how presets do together, as JSON values; what is kept is not done again.

    Args:
        presets: two or three with teachers and checks.
        mix: the sum of their steering.
        model: the model.
        joint: one steering for all of them.
        report: told how far the work is.

    Raises:
        ModelError: the model has no chat template.
        PresetError: together they are more than one preset may hold.
        StoreError: what is done cannot be kept.
    """
    whole, template = mixed(presets, [True] * len(presets)), ChatTemplate.of(model)
    questions = [(question,) for question in unseen(whole, N_QUESTIONS)]
    orders, arms = _arms(presets, mix, joint)
    n_cells = longest(template, questions, arms.values(), REPLY_TOKENS)
    with closing(Engine(model)) as engine:
        talk = partial(converse, engine, template, n_tokens=REPLY_TOKENS,
                       cache=reply_journal(model.fingerprint))  # fmt: skip
        had = {
            name: at_once(partial(talk, arms=[arm]), questions, f"asking: {name}", part)
            for name, arm, part in in_turn(arms, report)
        }
    with reading(model, n_cells) as reader:
        gaps = {
            order: _gaps(reader, template, order, arms, had[order], model.fingerprint, report)
            for order in orders
        }
    return as_json({
        "presets": [preset.name for preset in presets],
        "n_questions": len(questions), "n_compared": N_COMPARED, "reply_tokens": REPLY_TOKENS,
        "arms": {
            name: {
                "checks": {
                    **{preset.name: share(_passes([preset], had[name])) for preset in presets},
                    "all": share(_passes(presets, had[name])),
                },
                "gap_closed": {order: _closed(gaps[order], name) for order in orders
                               if name not in (BARE, order)},
            }
            for name in arms
        },
    })  # fmt: skip


def _arms(
    presets: Sequence[Preset], mix: Mix, joint: Mix | None
) -> tuple[list[str], dict[str, Arm]]:
    """Return the names of the orders, and all arms."""
    ordered = {
        f"{ORDER} {', '.join(preset.name for preset in some)}":
        Arm(mixed(some, [True] * len(some)).teacher) for some in permutations(presets)
    }  # fmt: skip
    scales = (round(1 / sqrt(len(presets)), 2), round(1 / len(presets), 2))
    sums = {SUM: Arm(mix=mix)} | {f"{SUM} x{scale}": Arm(mix=scale * mix) for scale in scales}
    jointly = {JOINT: Arm(mix=joint)} if joint else {}
    return list(ordered), {BARE: Arm(), **ordered, **sums, **jointly}


def _gaps(
    reader: Reader, template: ChatTemplate, order: str, arms: Mapping[str, Arm],
    chats: Sequence[Dialogue], fingerprint: str, report: Report,
) -> list[Mapping[str, Sequence[float]]]:  # fmt: skip
    """Return for each chat of an order how far all other arms are from it."""
    kept = figure_journal(fingerprint)
    return [
        distances(
            reader, template, (chat, arms[order]),
            {name: (chat, arm) for name, arm in arms.items() if name != order}, range(1), kept,
        )
        for chat in steps(chats[:: max(len(chats) // N_COMPARED, 1)], f"reading: {order}", report)
    ]  # fmt: skip


def _closed(gaps: Sequence[Mapping[str, Sequence[float]]], name: str) -> Estimate:
    gap, left = (np.array([gap[arm][0] for gap in gaps]) for arm in (BARE, name))
    return ratio(gap - left, gap)


def _passes(presets: Sequence[Preset], chats: Sequence[Dialogue]) -> list[bool]:
    return [all(preset.passes(chat.replies[0].text) for preset in presets) for chat in chats]
