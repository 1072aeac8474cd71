"""`steerplug bench`: what the hook costs, as ratios to the same context without it, in one run.

Three contexts on one model take turns, so that a slow moment of the machine hits all of them:
without the hook; with it, nothing steered; and with a gate (k = 1) at every block of every row.
Each figure is a median over the rounds; the spread runs from the lower to the upper quartile.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import Building, print_json, screen

if TYPE_CHECKING:
    from steerplug.engine.context import Context
    from steerplug.engine.hook import Applied

PREFILL, DECODE = 256, 48
PLAIN, IDLE, STEERED = "no hook", "hook, nothing steered", "hook, every block steered"


def bench(
    model: Model = MODEL,
    rounds: Annotated[int, typer.Option(min=3, help="How often each way is timed.")] = 15,
    as_json: Json = False,
) -> None:
    """Time decode and prefill without the hook, with it, and steered at every block."""
    with Building(f"Timing {rounds} rounds; leave the machine alone meanwhile.") as report:
        seconds = _timed(model, rounds, report)
    figures = {what: _figures(ways, size) for (what, size), ways in seconds.items()}
    if as_json:
        print_json({"model": model, "rounds": rounds, **figures})
    else:
        _show(figures)


Seconds = dict[tuple[str, int], dict[str, list[float]]]


def _timed(model: str, rounds: int, report: Callable[[str, int, int], None]) -> Seconds:
    from steerplug.engine.context import Context
    from steerplug.engine.model import Model as Weights
    from steerplug.model_file import find_model

    weights = Weights(find_model(model))
    applied = _gates(weights.n_embd, weights.n_layer)
    ways: dict[str, tuple[Context, Applied | None]] = {
        PLAIN: (Context(weights, n_ctx=1024, hooked=False), None),
        IDLE: (Context(weights, n_ctx=1024), None),
        STEERED: (Context(weights, n_ctx=1024), applied),
    }
    tasks = {("prefill", PREFILL): _prefill, ("decode", DECODE): _decode}
    seconds: Seconds = {task: {way: [] for way in ways} for task in tasks}
    for i in range(rounds + 1):
        report("timing", i, rounds + 1)
        for task, work in tasks.items():
            for way, (context, what) in ways.items():
                took = work(context, what)
                if i:  # the first round warms up
                    seconds[task][way].append(took)
    for context, _ in ways.values():
        context.close()
    weights.close()
    return seconds


def _gates(n_embd: int, n_layer: int) -> "Applied | None":
    """Return a gate at every block that is open but small, so that the text stays ordinary."""
    import numpy as np

    from steerplug.engine.hook import lay_out
    from steerplug.steering.value import Delta, Mix, Steering

    rng = np.random.default_rng(0)
    read = rng.normal(size=(1, n_embd)).astype(np.float32) / n_embd**0.5
    write = 1e-3 * rng.normal(size=(1, n_embd)).astype(np.float32)
    gate = Delta.gated(read, np.full(1, 4, np.float32), write)
    return lay_out(Mix.of(Steering("bench", n_embd, n_layer, dict.fromkeys(range(n_layer), gate))))


def _prefill(context: "Context", applied: "Applied | None") -> float:
    from steerplug.engine.context import Row

    rows = [Row(100 + i, i, i == PREFILL - 1, applied) for i in range(PREFILL)]
    context.clear()
    begin = time.perf_counter()
    context.decode(rows)
    return time.perf_counter() - begin


def _decode(context: "Context", applied: "Applied | None") -> float:
    from steerplug.engine.context import Row

    context.clear()
    context.decode([Row(100 + i, i, i == 31, applied) for i in range(32)])
    begin = time.perf_counter()
    for position in range(32, 32 + DECODE):
        context.decode([Row(100 + position, position, True, applied)])
    return time.perf_counter() - begin


def _figures(ways: dict[str, list[float]], n_tokens: int) -> dict[str, Any]:
    import numpy as np

    plain = np.array(ways[PLAIN])
    figures = {}
    for way, key in ((PLAIN, "no_hook"), (IDLE, "idle"), (STEERED, "steered")):
        ratios = np.array(ways[way]) / plain
        low, high = np.quantile(ratios, (0.25, 0.75))
        figures[key] = {
            "tokens_per_second": round(n_tokens / float(np.median(ways[way])), 1),
            "ratio": round(float(np.median(ratios)), 4),
            "spread": [round(float(low), 4), round(float(high), 4)],
        }
    return figures


def _show(figures: dict[str, dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(no_wrap=True)
    for title in ("tokens/s", "time ratio", "quartiles"):
        table.add_column(title, justify="right", no_wrap=True)
    for what, ways in figures.items():
        for way, said in zip((PLAIN, IDLE, STEERED), ways.values(), strict=True):
            low, high = said["spread"]
            table.add_row(
                f"{what}, {way}", f"{said['tokens_per_second']:.0f}", f"{said['ratio']:.3f}",
                f"{low:.3f}-{high:.3f}",
            )  # fmt: skip
    screen().print(table)
