"""Reports as tables of text, from their JSON: what a terminal shows, and the page of results.

A figure is shown as `91% (89 to 92)`, its 95 % interval in brackets; a report may lack arms of a
figure, and intervals.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]
NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table under what it shows; the first column names its rows."""

    what: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def about(self) -> str:
        """The sentence above it, which says of what per cent its intervals are, if it has any."""
        has_intervals = any(" (" in cell for row in self.rows for cell in row[1:])
        return f"{self.what} (95 %)." if has_intervals else f"{self.what}."


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
    n_chats = figures["n_chats"]
    chats = f"{n_chats} chat{'s' if n_chats > 1 else ''} of {n} turns"
    for name, what, form in (
        ("gap_closed", "Gap to the prompted model closed, along its own replies in", "2f"),
        ("left", "Nats per token that are left of that gap in", "3f"),
        ("checks", "Replies that keep the preset's checks in", "0%"),
        ("limit", f"Replies that run into the limit of {figures['reply_tokens']} tokens in", "0%"),
        ("repetition", "4-grams of a reply that it has said before, in", "0%"),
        ("again", "Replies that the chat has had before, word for word, in", "0%"),
    ):
        if some := {arm: its for arm, its in arms.items() if name in its}:
            rows = [
                [f"turn {turn + 1}", *(shown(its[name][turn], None, form) for its in some.values())]
                for turn in range(n)
            ]
            for title, key in (("all turns", "over_all"), (f"turn {n} less turn 1", "change")):
                row = [figure(its, f"{name}_{key}", form) for its in some.values()]
                rows += [] if set(row) == {NONE} else [[title, *row]]
            if name == "left":
                rows = [[*row, shown(gap, None, form)]
                        for row, gap in zip(rows, figures["gap"], strict=True)]
            titles = ("", *some, *(["the gap"] if name == "left" else []))
            yield Table(f"{what} {chats}", titles, rows)
    yield Table(
        f"Switched after turn {n // 2}: how near the later turns are to those of a chat that was "
        "had so from its beginning, and the checks kept there",
        ("", "nearness", "checks: bare", "switched", "steered", "switched by the prompt"),
        [[name, figure(its, "nearness", "2f"),
          *_checks(its, ("bare", name, "steered", f"prompt_{name}"))]
         for name, its in figures["switched"].items()],
    )  # fmt: skip


def _checks(figures: Figures, names: Sequence[str]) -> list[str]:
    kept, intervals = figures.get("checks") or {}, figures.get("checks_interval") or {}
    return [shown(kept.get(name), intervals.get(name)) for name in names]


def _overrides(figures: Figures) -> Iterator[Table]:
    arms = figures["arms"]
    yield Table(
        f"Replies that keep the preset's checks, to {figures['n_overrides']} questions alone and "
        "with a text pasted behind that would lead away from it",
        ("", "alone", "pasted", "pasted less alone"),
        [[arm, *(figure(its, name) for name in ("plain", "pasted", "change"))]
         for arm, its in arms.items()],
    )  # fmt: skip
    kinds = list(next(iter(arms.values()))["by_kind"])
    yield Table(
        "The same by what is pasted",
        ("", *arms),
        [[kind, *(shown(its["by_kind"][kind]) for its in arms.values())] for kind in kinds],
    )


def _orders(figures: Figures) -> Iterator[Table]:
    names, arms = [*figures["presets"], "all"], figures["arms"]
    orders = [name for name in arms if name.startswith("order ")]
    yield Table(
        f"Replies to {figures['n_questions']} questions that keep the checks of each preset, and "
        "of all",
        ("", *names),
        [[arm, *_checks(its, names)] for arm, its in arms.items()],
    )
    yield Table(
        "Of the gap that the prompts open in an order, the share that is closed, on its replies to "
        f"{figures['n_compared']} of the questions",
        ("", *orders),
        [[arm, *_closed(its, orders)] for arm, its in arms.items()],
    )


def _closed(figures: Figures, orders: Sequence[str]) -> list[str]:
    closed, intervals = figures["gap_closed"], figures.get("gap_closed_interval", {})
    return [shown(closed.get(order), intervals.get(order), "2f") for order in orders]


def _instructions(figures: Figures) -> Iterator[Table]:
    ways = ("none", "prompt", "steering", "both")
    yield Table(
        f"Replies that keep the task's instruction, of at most {figures['reply_tokens']} tokens; "
        "both less the prompt; and the share of what the instruction in the task's own words "
        "changes that its preset, of other words, makes up for",
        ("", "tasks", *ways, "both less prompt", "gap closed"),
        [[name, str(its["n"]),
          *(shown(its["kept"][way], its["kept_interval"][way]) for way in ways),
          figure(its, "gain"), figure(its, "gap_closed", "2f")]
         for name, its in figures["by_instruction"].items()],
    )  # fmt: skip


TABLES: Mapping[str, tuple[str, Callable[[Figures], Iterator[Table]]]] = {
    "turns": ("Over ten turns", _turns),
    "overrides": ("Under pasted overrides", _overrides),
    "orders": ("Presets together", _orders),
    "instructions": ("Checkable instructions", _instructions),
}
"""Each measure's title and tables, by its key in the JSON."""
