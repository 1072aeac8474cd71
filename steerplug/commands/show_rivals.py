"""What `steerplug bench --rivals` prints: what carriers keep, what they cost, what they can do."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from steerplug.benchmark.rivals.facts import FACTS
from steerplug.benchmark.turns import Timing
from steerplug.commands.output import say, screen
from steerplug.store.figures import NOT_MEASURED

if TYPE_CHECKING:
    from steerplug.benchmark.rivals.comparison import Comparison, Rival
    from steerplug.benchmark.rivals.tuning import Tuned
    from steerplug.evaluate.estimate import Estimate

_ESTIMATES = ("gap_closed", "flip_recovery", "neutral_kl")
_TASKS = {"first_token_held": "first token, held", "first_token_new": "first token, new",
          "decode": "decode"}  # fmt: skip


def figures(compared: "Comparison") -> dict[str, Any]:
    """Return a comparison as JSON values; each estimate has its 95 % `<key>_interval`."""
    return {
        "n_lessons": compared.n_lessons,
        "n_questions": compared.n_questions,
        "n_replies": compared.n_replies,
        "rivals": [_figures(rival) for rival in compared.rivals],
    }


def _figures(rival: "Rival") -> dict[str, Any]:
    shown: dict[str, Any] = {"name": rival.name, "kind": rival.kind}
    estimates = {name: rival.figures[name] for name in _ESTIMATES} | {"checks": rival.checks}
    for name, estimate in estimates.items():
        shown[name], shown[f"{name}_interval"] = estimate.as_json()
    shown["gap_closed_at_half"] = rival.at_half.as_json()[0] if rival.at_half else None
    shown |= {"bytes": rival.n_bytes, "cells": round(rival.n_cells)}
    for key, task in _TASKS.items():
        timing = rival.timings[task]
        shown[f"{key}_milliseconds"] = round(1e3 * timing.seconds, 3)
        shown[f"{key}_ratio"] = round(timing.ratio, 4)
        shown[f"{key}_spread"] = [round(timing.low, 4), round(timing.high, 4)]
    return {**shown, **asdict(FACTS[rival.kind]), **_training(rival.tuned),
            "measured_in": "llama.cpp"}  # fmt: skip


def _training(tuned: "Tuned | None") -> dict[str, Any]:
    if tuned is None:
        return dict.fromkeys(("trained_in", "parameters", "rate", "held_back_kl"))
    left = {f"{rate:.3g}": _finite(kl) for rate, kl in sorted(tuned.left.items())}
    return {"trained_in": "torch", "parameters": tuned.n_parameters, "rate": tuned.rate,
            "held_back_kl": left}  # fmt: skip


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def show(preset: str, compared: "Comparison") -> None:
    """Print what carriers of a preset keep, cost and can do, each in a table."""
    console = screen()
    for table in (_kept(compared), _trained(compared), _costs(compared), _can(compared)):
        console.print(table)
    say(
        f"{preset}: trained in torch on {compared.n_lessons} replies, by mean KL; measured in "
        f"llama.cpp on {compared.n_questions} unseen questions (95 % interval), checks on "
        f"{compared.n_replies} greedy replies.\n"
        "At half: gap closed at half strength. Held-back KL, in nats, chose the rate. Held, new: "
        "to the first token, with what is each one's own in the cache and with nothing. Decode: "
        "time of a token, to the bare chat's.\n"
        + "\n".join(f"{kind}: {facts.why}." for kind, facts in FACTS.items() if kind != "none")
    )


def _kept(compared: "Comparison") -> Table:
    table = _table("what it keeps", "gap closed", "flips", "checks", "drift", "at half")
    for rival in compared.rivals:
        gap, flips, drift = (rival.figures[name] for name in _ESTIMATES)
        table.add_row(
            rival.name, _with_interval(gap), _share(flips), _share(rival.checks),
            NOT_MEASURED if drift.value is None else f"{drift.value:.3f}",
            _share(rival.at_half),
        )  # fmt: skip
    return table


def _trained(compared: "Comparison") -> Table:
    table = _table("how it learned", "numbers", "rate")
    table.add_column("held-back KL by rate", overflow="fold")
    for rival in compared.rivals:
        if rival.tuned is not None:
            left = rival.tuned.left
            tried = ", ".join(f"{rate:.2g}: {left[rate]:.3f}" for rate in sorted(left))
            numbers = f"{rival.tuned.n_parameters:,}"
            table.add_row(rival.name, numbers, f"{rival.tuned.rate:.2g}", tried)
    return table


def _costs(compared: "Comparison") -> Table:
    table = _table("what it costs", "bytes", "cells", "held", "new", "decode")
    for rival in compared.rivals:
        held, new, decode = (rival.timings[task] for task in _TASKS.values())
        table.add_row(
            rival.name, f"{rival.n_bytes:,}", f"{rival.n_cells:.0f}", _first(held), _first(new),
            f"x{decode.ratio:.2f} ({decode.low:.2f}-{decode.high:.2f})",
        )  # fmt: skip
    return table


def _can(compared: "Comparison") -> Table:
    table = _table("what it can do", "shares a batch", "strength", "minus", "sums")
    for kind in dict.fromkeys(rival.kind for rival in compared.rivals if rival.kind != "none"):
        facts = FACTS[kind]
        able = (facts.shares_batch, facts.strength, facts.minus, facts.sums)
        table.add_row(kind, *("yes" if each else "no" for each in able))
    return table


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    return table


def _first(timing: Timing) -> str:
    return f"{1e3 * timing.seconds:.0f} ms"


def _share(estimate: "Estimate | None") -> str:
    if estimate is None:
        return ""
    return NOT_MEASURED if estimate.value is None else f"{estimate.value:.0%}"


def _with_interval(estimate: "Estimate") -> str:
    if estimate.value is None or estimate.interval is None:
        return _share(estimate)
    low, high = estimate.interval
    return f"{estimate.value:.0%} ({100 * low:.0f} to {100 * high:.0f})"
