"""Reports as tables of text, from their JSON: what a terminal shows, and the page of results.

A figure is shown as `91% (89 to 92)`, its 95 % interval in brackets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]
NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table under a sentence that says what it shows; the first column names its rows."""

    about: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


def shown(value: float | None, interval: Sequence[float] | None = None, form: str = "0%") -> str:
    """Return a figure as text; `form` is that of `format`, shares being per cent."""
    if value is None:
        return NONE
    text = f"{value:.{form}}"
    if interval is None:
        return text
    low, high = (f"{end:.{form}}" for end in interval)
    return f"{text} ({low.removesuffix('%')} to {high.removesuffix('%')})"


def figure(figures: Figures, name: str, form: str = "0%") -> str:
    """Return a figure of a report with its interval as text."""
    return shown(figures.get(name), figures.get(f"{name}_interval"), form)


def tables(report: Figures) -> Iterator[Table]:
    """Yield the tables of a report, whichever it is.

    Args:
        report: what a measure returned, or the whole of what a command printed as JSON.
    """
    for name, (_, drawn) in TABLES.items():
        if name in report:
            yield from drawn(report[name])


def _turns(figures: Figures) -> Iterator[Table]:
    n, arms = figures["n_turns"], figures["arms"]
    turns = [f"turn {turn}" for turn in range(1, n + 1)]

    def by_turn(name: str, form: str = "0%") -> list[list[str]]:
        return [
            [arm, *(shown(value, None, form) for value in its[name]),
             figure(its, f"{name}_over_all", form), figure(its, f"{name}_change", form)]
            for arm, its in arms.items() if name in its
        ]  # fmt: skip

    chats = f"{figures['n_chats']} chats of {n} turns"
    ends = "all turns", f"turn {n} less turn 1"
    yield Table(
        f"Gap to the prompted model closed, by turn, on the prompted model's own replies in {chats}"
        " (95 %).", ("", *turns, *ends), by_turn("gap_closed", "2f"),
    )  # fmt: skip
    if rows := by_turn("checks"):
        yield Table(f"Replies that keep the preset's checks, by turn, in {chats} (95 %).",
                    ("", *turns, *ends), rows)  # fmt: skip
    for name, what in (
        ("limit", f"Replies that run into the limit of {figures['reply_tokens']} tokens, by turn."),
        ("repetition", "4-grams of a reply that it has said before, by turn."),
    ):
        rows = [[arm, *(shown(value) for value in its[name])] for arm, its in arms.items()]
        yield Table(what, ("", *turns), rows)
    yield Table(
        f"Switched after turn {n // 2}: how near the later turns are to those of a chat that was "
        "had so from its beginning, and the checks kept there (95 %).",
        ("", "nearness", "checks, bare", "switched", "steered"),
        [[name, figure(its, "nearness", "2f"), *_checks(its, ("bare", name, "steered"))]
         for name, its in figures["switched"].items()],
    )  # fmt: skip


def _checks(figures: Figures, names: Sequence[str]) -> list[str]:
    kept, intervals = figures.get("checks") or {}, figures.get("checks_interval") or {}
    return [shown(kept.get(name), intervals.get(name)) for name in names]


def _overrides(figures: Figures) -> Iterator[Table]:
    arms = figures["arms"]
    kinds = list(next(iter(arms.values()))["by_kind"])
    yield Table(
        f"Replies that keep the preset's checks, to {figures['n_overrides']} questions alone and "
        "with a text pasted behind that would lead away from it (95 %).",
        ("", "alone", "pasted", "pasted less alone", *kinds),
        [[arm, figure(its, "plain"), figure(its, "pasted"), figure(its, "change"),
          *(shown(its["by_kind"][kind]) for kind in kinds)] for arm, its in arms.items()],
    )  # fmt: skip


def _orders(figures: Figures) -> Iterator[Table]:
    names, arms = [*figures["presets"], "all"], figures["arms"]
    orders = [name for name in arms if name.startswith("order ")]
    yield Table(
        f"Replies to {figures['n_questions']} questions that keep the checks of each preset, and "
        f"of all; and of the gap that the prompts open in an order, the share that is closed, on "
        f"its replies to {figures['n_compared']} of them (95 %).",
        ("", *(f"checks: {name}" for name in names), *(f"gap: {order}" for order in orders)),
        [[arm, *_checks(its, names), *_closed(its, orders)] for arm, its in arms.items()],
    )


def _closed(figures: Figures, orders: Sequence[str]) -> list[str]:
    closed, intervals = figures["gap_closed"], figures.get("gap_closed_interval", {})
    return [shown(closed.get(order), intervals.get(order), "2f") for order in orders]


TABLES: Mapping[str, tuple[str, Callable[[Figures], Iterator[Table]]]] = {
    "turns": ("Over ten turns", _turns),
    "overrides": ("Under pasted overrides", _overrides),
    "orders": ("Presets together", _orders),
}
"""Each measure's title and tables, by its key in the JSON."""
