"""What `steerplug bench --fits` prints: a row for each fit, and the mean of each way."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from steerplug.commands.output import say, screen
from steerplug.store.figures import NOT_MEASURED, checks_kept, gap_closed, number

if TYPE_CHECKING:
    from steerplug.benchmark.fits import Fit


def figures(fit: "Fit") -> dict[str, Any]:
    """Return a fit as JSON values."""
    return {"preset": fit.preset, "way": fit.way, "seconds": round(fit.seconds, 1),
            "memory_bytes": fit.n_bytes, "fidelity": dict(fit.fidelity)}  # fmt: skip


def show(fits: Sequence["Fit"]) -> None:
    """Print all fits, way by way."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("", "seconds", "memory", "gap closed", "checks", "drift"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for way in dict.fromkeys(fit.way for fit in fits):
        table.add_section()
        some = [fit for fit in fits if fit.way == way]
        gaps = [gap for fit in some if (gap := number(fit.fidelity.get("gap_closed"))) is not None]
        table.add_row(
            way, f"{fmean(fit.seconds for fit in some):.0f}", "",
            f"{fmean(gaps):.1%}" if gaps else NOT_MEASURED, style="bold",
        )  # fmt: skip
        for fit in some:
            drift = number(fit.fidelity.get("drift"))
            table.add_row(
                f"  {fit.preset}", f"{fit.seconds:.0f}",
                NOT_MEASURED if fit.n_bytes is None else f"{fit.n_bytes / 1e9:.2f} GB",
                gap_closed(fit.fidelity), checks_kept(fit.fidelity),
                NOT_MEASURED if drift is None else f"{drift:.3f}",
            )  # fmt: skip
    screen().print(table)
    say("Seconds of a whole build, with its report; memory beyond the loaded model.")
