"""A fidelity report on the terminal: the figures, the three ways of replying, and the strengths."""

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from steerplug.commands.output import put, screen

if TYPE_CHECKING:
    from steerplug.evaluate.estimate import Estimate
    from steerplug.evaluate.fidelity import Fidelity, Ways
    from steerplug.evaluate.sweep import Chosen, Sweep


def show(title: str, fidelity: "Fidelity", swept: "Sweep", chosen: "Chosen") -> None:
    """Print a fidelity report and its sweep under a title."""
    from steerplug.evaluate.fidelity import PROMPTED

    console = screen()
    plural = "" if fidelity.n_prompts == 1 else "s"
    put(f"{title}: {fidelity.n_prompts} prompt{plural}")
    console.print(_figures(fidelity))
    console.print(_replies(fidelity))
    console.print(_strengths(swept))
    put(advice(chosen, PROMPTED in fidelity.coherence))


def _figures(fidelity: "Fidelity") -> Table:
    table = _table("", "", "95 % interval")
    for label, estimate, form in (
        ("gap to the prompted model that is closed", fidelity.gap_closed, "{:.0%}"),
        ("the gap, nats per token", fidelity.bare_kl, "{:.3f}"),
        ("same likeliest token as prompted", fidelity.top1_agreement, "{:.0%}"),
        ("... where the prompt changes it", fidelity.flip_recovery, "{:.0%}"),
        ("drift where the prompt changes nothing, nats", fidelity.neutral_kl, "{:.3f}"),
    ):
        if estimate.value is not None:
            table.add_row(label, *_shown(estimate, form))
    for label, value, form in (
        ("pull of the contrast's texts, at each turn", fidelity.dial, "{:.0%}"),
        ("damage to the model's own words, nats", fidelity.damage, "{:.3f}"),
        ("prompt tokens saved, each request", fidelity.prompt_tokens_saved, "{:.0f}"),
    ):
        if value is not None:
            table.add_row(label, form.format(value), "")
    return table


def _shown(estimate: "Estimate", form: str) -> tuple[str, str]:
    value = "-" if estimate.value is None else form.format(estimate.value)
    if estimate.interval is None:
        return value, ""
    return value, " to ".join(form.format(end) for end in estimate.interval)


def _replies(fidelity: "Fidelity") -> Table:
    from steerplug.evaluate.fidelity import BARE, PROMPTED, STEERED

    shown = [way for way in (BARE, PROMPTED, STEERED) if way in fidelity.coherence]
    table = _table(f"greedy replies: {fidelity.n_replies}", *shown)

    def add(label: str, ways: "Ways", form: str) -> None:
        table.add_row(label, *(_shown(ways[way], form)[0] for way in shown))

    add("coherence, nats per token", fidelity.coherence, "{:.2f}")
    add("repetition of 4-grams", fidelity.repetition, "{:.0%}")
    if fidelity.checks is not None:
        add("pass the preset's checks", fidelity.checks, "{:.0%}")
    return table


def _strengths(swept: "Sweep") -> Table:
    from steerplug.evaluate.sweep import is_safe

    table = _table("strength", "gap closed", "coherence", "repetition", "")
    for point in swept.points:
        table.add_row(
            f"{point.strength:g}", _shown(point.gap_closed, "{:.0%}")[0],
            _shown(point.quality.coherence, "{:.2f}")[0],
            _shown(point.quality.repetition, "{:.0%}")[0],
            "safe" if is_safe(point, swept.reference) else "reads worse",
        )  # fmt: skip
    return table


def advice(chosen: "Chosen", taught: bool) -> str:
    """Say which strength to use and how far it can be turned; `taught` by a prompt, or not."""
    best = f"Strength {chosen.default:g} is the {'best ' if taught else ''}default"
    read = f"replies read as well as the {'prompted' if taught else 'bare'} model's"
    if chosen.safe_min is None or chosen.safe_max is None:
        return f"{best}, but at no strength do {read}."
    within = chosen.safe_min <= chosen.default <= chosen.safe_max
    return (
        f"{best}{';' if within else ', but'} {read} from {chosen.safe_min:g} to "
        f"{chosen.safe_max:g}."
    )


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    return table
