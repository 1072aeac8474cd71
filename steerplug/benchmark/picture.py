"""The bench as one picture: how long each way takes against the first of its task."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from steerplug.benchmark.turns import Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REFERENCE, _OTHER = "#777777", "#2a6fbb"


def picture(tasks: Mapping[str, Mapping[str, Timing]], title: str) -> "Figure":
    """Return a panel for each task: bars are ratios of time, whiskers their quartiles."""
    from matplotlib.figure import Figure

    sizes = [len(ways) + 1 for ways in tasks.values()]
    figure = Figure(figsize=(9, 0.32 * sum(sizes) + 1), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", parse_math=False)
    panels = figure.subplots(len(tasks), height_ratios=sizes, squeeze=False)[:, 0]
    for axes, (task, ways) in zip(panels, tasks.items(), strict=True):
        _panel(axes, task, ways)
    panels[-1].set_xlabel("time, as a ratio to the first way (less is faster)")
    return figure


def _panel(axes: "Axes", task: str, ways: Mapping[str, Timing]) -> None:
    ratios = [timing.ratio for timing in ways.values()]
    spread = [[t.ratio - t.low for t in ways.values()], [t.high - t.ratio for t in ways.values()]]
    colours = [_REFERENCE, *([_OTHER] * (len(ways) - 1))]
    axes.barh(list(ways), ratios, xerr=spread, color=colours, height=0.6)
    for i, ratio in enumerate(ratios):
        axes.annotate(f" {ratio:.3f}", (max(spread[1][i] + ratio, ratio), i), va="center")
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xlim(0, 1.15 * max(t.high for t in ways.values()))
    axes.invert_yaxis()
    axes.set_title(task)
