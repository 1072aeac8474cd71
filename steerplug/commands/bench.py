"""`steerplug bench`: what the hook costs, as ratios to the same context without it, in one run.

Three contexts on one model take turns, token by token in decoding, so that a slow moment of the
machine hits all of them: without the hook; with it, nothing steered; and with a gate (k = 1) at
every block of every row. Whoever was first in one turn is last in the next. A ratio is the median
over all turns of (this way / without the hook) in the same turn; the spread runs from its lower to
its upper quartile.
"""

import time
from collections.abc import Callable, Iterator
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
PREFILL_TASK, DECODE_TASK = ("prefill", PREFILL), ("decode", 1)
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


Ways = dict[str, "tuple[Context, Applied | None]"]
Seconds = dict[tuple[str, int], dict[str, list[float]]]


def _timed(model: str, rounds: int, report: Callable[[str, int, int], None]) -> Seconds:
    from steerplug.engine.context import Context
    from steerplug.engine.model import Model as Weights
    from steerplug.model_file import find_model

    weights = Weights(find_model(model))
    applied = _gates(weights.n_embd, weights.n_layer)
    ways: Ways = {
        PLAIN: (Context(weights, n_ctx=1024, hooked=False), None),
        IDLE: (Context(weights, n_ctx=1024), None),
        STEERED: (Context(weights, n_ctx=1024), applied),
    }
    seconds: Seconds = {task: {way: [] for way in ways} for task in (PREFILL_TASK, DECODE_TASK)}
    for i in range(rounds + 1):  # the first round warms up
        report("timing", i, rounds + 1)
        for task, work in ((PREFILL_TASK, _prefill), (DECODE_TASK, _decode)):
            for turn in work(ways, i):
                for way, took in turn.items() if i else ():
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


def _prefill(ways: Ways, i: int) -> Iterator[dict[str, float]]:
    for context, _ in ways.values():
        context.clear()
    yield _turn(ways, 0, PREFILL, i)


def _decode(ways: Ways, i: int) -> Iterator[dict[str, float]]:
    for context, _ in ways.values():
        context.clear()
    _turn(ways, 0, 32, i)
    for n in range(DECODE):
        yield _turn(ways, 32 + n, 1, i + n)


def _turn(ways: Ways, begin: int, n: int, i: int) -> dict[str, float]:
    """Decode n tokens from position `begin` once each way, in odd turns i the other way round.

    Returns:
        For each way, its seconds.
    """
    from steerplug.engine.context import Row

    seconds = {}
    for way in list(ways)[:: 1 if i % 2 else -1]:
        context, what = ways[way]
        rows = [Row(100 + p, p, p == begin + n - 1, what) for p in range(begin, begin + n)]
        start = time.perf_counter()
        context.decode(rows)
        seconds[way] = time.perf_counter() - start
    return seconds


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
