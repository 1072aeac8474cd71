"""The fidelity report as one picture: what strength does, and where in a reply the preset acts.

Drawn with matplotlib, which is the extra `plot` and imported only here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerplug.evaluate.estimate import Estimate
from steerplug.evaluate.fidelity import BARE, PROMPTED, STEERED, Fidelity
from steerplug.evaluate.sweep import Chosen, Sweep
from steerplug.evaluate.trace import Trace
from steerplug.files.picture import check_picture, publish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _GREY = "#2a6fbb", "#d9822b", "#4c9f70", "#777777"


def draw(
    fidelity: Fidelity, sweep: Sweep, chosen: Chosen, trace: Trace, path: Path, *, title: str
) -> None:
    """Draw the report and publish it, whole or not at all, over whatever was at `path`.

    Args:
        fidelity: the headline.
        sweep: strength against fidelity and against how replies read.
        chosen: the default strength and the safe range, which are marked.
        trace: the reply that is shown token by token.
        path: the file; its suffix is .svg, .png or .pdf.
        title: what was measured, in a few words.

    Raises:
        RequestError: see `check_picture`; or the file cannot be written.
    """
    check_picture(path)
    publish(path, lambda: _picture(fidelity, sweep, chosen, trace, title))


def _picture(
    fidelity: Fidelity, sweep: Sweep, chosen: Chosen, trace: Trace, title: str
) -> "Figure":
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 7.2), layout="constrained")
    picture.suptitle(
        plain(title), x=0.01, ha="left", fontsize=14, fontweight="bold", parse_math=False
    )
    rows = picture.add_gridspec(3, 1, height_ratios=(0.26, 1, 1.05))
    _headline(picture.add_subplot(rows[0]), fidelity)
    panels = picture.add_subfigure(rows[1]).subplots(1, 3, sharex=True)
    _strengths(panels, sweep, chosen)
    _tokens(picture.add_subplot(rows[2]), trace)
    return picture


def _headline(axes: "Axes", fidelity: Fidelity) -> None:
    """Write the main numbers in large type."""
    axes.set_axis_off()
    shown = _numbers(fidelity)
    for i, (number, what) in enumerate(shown):
        x = i / max(len(shown), 1)
        axes.text(x, 0.6, number, fontsize=19, color=_BLUE, transform=axes.transAxes)
        axes.text(x, 0.45, what, va="top", color=_GREY, transform=axes.transAxes)


def _numbers(fidelity: Fidelity) -> list[tuple[str, str]]:
    """Return the main numbers, each with two lines on what it is."""
    shown = []
    for what, estimate, form in (
        ("of the gap closed", fidelity.gap_closed, "{:.0%}"),
        ("same likeliest token", fidelity.top1_agreement, "{:.0%}"),
        ("of flips recovered", fidelity.flip_recovery, "{:.0%}"),
        ("nats of neutral drift", fidelity.neutral_kl, "{:.3f}"),
    ):
        if estimate.value is not None:
            between = " to ".join(map(form.format, estimate.interval or ()))
            shown.append((form.format(estimate.value), f"{what}\n{between}"))
    if fidelity.dial is not None:
        shown.append((f"{fidelity.dial:.0%}", "of the contrast's pull\nat each turn"))
    if fidelity.damage is not None:
        shown.append((f"{fidelity.damage:.2f}", "nats of damage\nper token"))
    if fidelity.prompt_tokens_saved is not None:
        saved = f"{fidelity.prompt_tokens_saved:.0f}"
        shown.append((saved, "prompt tokens saved\nin every request"))
    if fidelity.checks is not None and (passed := fidelity.checks[STEERED].value) is not None:
        others = [
            f"{way} {fidelity.checks[way].value:.0%}"
            for way in (BARE, PROMPTED) if way in fidelity.checks
        ]  # fmt: skip
        shown.append((f"{passed:.0%}", f"pass the checks\n{', '.join(others)}"))
    return shown


def _strengths(panels: Any, sweep: Sweep, chosen: Chosen) -> None:
    """Draw gap closed, coherence and repetition against strength."""
    gap, coherence, repetition = panels
    points = sweep.points
    other = BARE if points[0].gap_closed.value is None else PROMPTED
    _line(gap, sweep, [point.gap_closed for point in points], _BLUE, "gap closed")
    _line(
        coherence, sweep, [point.quality.coherence for point in points], _ORANGE,
        "coherence, nats per token",
    )  # fmt: skip
    _line(
        repetition, sweep, [point.quality.repetition for point in points], _GREEN,
        "repetition, share of 4-grams",
    )  # fmt: skip
    gap.axhline(0, color=_GREY, linewidth=0.6)
    for axes, own in ((coherence, sweep.reference.coherence),
                      (repetition, sweep.reference.repetition)):  # fmt: skip
        if own.value is not None:
            axes.axhline(own.value, color=_GREY, linestyle=(0, (5, 3)), linewidth=1,
                         label=f"{other} model")  # fmt: skip
            axes.legend(frameon=False, fontsize=8)
    for axes in panels:
        if chosen.safe_min is not None and chosen.safe_max is not None:
            axes.axvspan(chosen.safe_min, chosen.safe_max, color=_GREEN, alpha=0.12, linewidth=0)
        axes.axvline(chosen.default, color="black", linewidth=0.9, linestyle=":")
        axes.set_xlabel("strength (shaded: safe, dotted: default)")


def _line(
    axes: "Axes", sweep: Sweep, estimates: list[Estimate], color: str, title: str
) -> None:
    """Draw one figure with its 95 % band, where it was measured."""
    known = [
        (point.strength, estimate.value, *(estimate.interval or (estimate.value, estimate.value)))
        for point, estimate in zip(sweep.points, estimates, strict=True)
        if estimate.value is not None
    ]
    axes.set_title(title)
    if known:
        strengths, values, low, high = zip(*known, strict=True)
        axes.fill_between(strengths, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(strengths, values, color=color, marker="o", markersize=4)
    else:
        axes.text(0.5, 0.5, "no prompt to compare with", ha="center", color=_GREY,
                  transform=axes.transAxes)  # fmt: skip


def _tokens(axes: "Axes", trace: Trace) -> None:
    """Draw how strongly each token of the reply was steered, the tokens as text beneath."""
    from matplotlib import colormaps

    places = range(len(trace.moved))
    most = max(trace.moved, default=0.0) or 1.0
    colors = [colormaps["YlOrRd"](0.15 + 0.8 * moved / most) for moved in trace.moved]
    axes.bar(places, [100 * moved for moved in trace.moved], color=colors, width=0.9)
    axes.set_xticks(list(places), [plain(text) for text in trace.texts],
                    rotation=60, ha="right", rotation_mode="anchor", fontsize=8,
                    parse_math=False)  # fmt: skip
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.7, max(len(trace.moved) - 0.3, 1))
    axes.set_ylabel("activations moved, %")
    axes.set_title(f"where the preset acts, asked: {plain(trace.question)}", parse_math=False)


def plain(text: str, longest: int = 90) -> str:
    """Return a text for one line of a picture: line breaks shown, nothing unprintable, not long."""
    shown = text.replace("\r", "").replace("\n", "\u21b5").strip(" ")
    shown = "".join(c if c.isprintable() else "\ufffd" for c in shown)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}\u2026"
