"""`steerplug bench`: what steering costs, and what its alternatives do, in one run.

Each task is done in several ways that take turns; see `benchmark.turns` for what is compared. With
`--fits`, presets are fitted in several ways instead; see `benchmark.fits`. With `--rivals`, one is
held against other carriers of its prompt; see `benchmark.rivals`. With `--instructions`, tasks are
asked with their instruction as a prompt and as a preset; see `evaluate.instructions`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from steerplug.commands.building import Building
from steerplug.commands.comparisons import bench_fits, bench_instructions, bench_rivals
from steerplug.commands.completion import preset_names
from steerplug.commands.loading_options import with_loading
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_json, say, screen
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError

if TYPE_CHECKING:
    from steerplug.benchmark.turns import Task, Timing
    from steerplug.fit.progress import Report

Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the ratios: .svg, .png or .pdf.", show_default=False),
]


@with_loading
def bench(
    model: Model = MODEL,
    rounds: Annotated[int, typer.Option(min=3, help="How often each task is timed.")] = 15,
    plot: Plot = None,
    fits: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", show_default=False,
            help="Instead: fit these presets (a,b,c) quickly, by chain and by psr; it takes long, "
            "and what is done is kept.",
        ),
    ] = None,
    rivals: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False,
            help="Instead: hold a preset against soft prompts, K/V prefixes and LoRA that learn "
            "from the same replies, and against its prompt; it takes hours, --quick a tenth.",
            autocompletion=preset_names,
        ),
    ] = None,
    instructions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False,
            help="Instead: how these tasks, in IFEval's terms, keep their instruction with its "
            "prompt, with a preset of it, with both and with neither; it takes long.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --rivals or --instructions: take quick fits.")
    ] = False,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Time steering against its alternatives: tokens, replies, many requests, LangChain."""
    given = {"--fits": fits, "--rivals": rivals, "--instructions": instructions}
    asked = [name for name, what in given.items() if what is not None]
    if len(asked) > 1:
        raise RequestError(f"{' and '.join(asked)} are measured one at a time; leave out one.")
    if quick and not (rivals or instructions):
        raise RequestError("--quick only works with --rivals or --instructions; leave it out.")
    if fits is not None:
        bench_fits(fits, model, loading, as_json)
        return
    if rivals is not None:
        bench_rivals(rivals, model, loading, rounds, quick=quick, as_json=as_json)
        return
    if instructions is not None:
        bench_instructions(instructions, quick, model, loading, as_json)
        return
    from steerplug.files.picture import check_picture, publish

    if plot:
        check_picture(plot)
    with Building(f"Timing {rounds} rounds; leave the machine alone meanwhile.") as report:
        where, timed = _timed(model, loading, rounds, report)
    if plot:
        from steerplug.benchmark.picture import picture

        timings = {task.name: ways for task, ways in timed}
        publish(plot, lambda: picture(timings, f"steerplug bench on {model}"))
    if as_json:
        print_json({"model": model, "device": where, "rounds": rounds, "left_out": _left_out(timed),
                    **{task.name.replace(" ", "_"): _figures(task, ways) for task, ways in timed}})
    else:
        _show(timed)
        say(f"On {where}.")
        if plot:
            say(f"Drawn in {plot}.")


Timings = list[tuple["Task", "dict[str, Timing]"]]


def _timed(
    model: str, loading: Loading, rounds: int, report: "Report"
) -> tuple[str, Timings]:
    """Return on which device the model lies, and how long all tasks took."""
    from steerplug.benchmark import decode, langchain, prompts, replies
    from steerplug.benchmark.peers import loaded_alike
    from steerplug.benchmark.turns import take_turns
    from steerplug.session.opening import open_model

    loaded_alike(loading)  # or refuse it now
    weights = open_model(model, loading)
    tasks = [decode.prefill, decode.decode, decode.switch, replies.reply, replies.crowd]
    if weights.chat_template:
        tasks += [prompts.first_token, prompts.second_request, langchain.layer, langchain.batch]
    try:
        timed = [take_turns(task(weights), rounds, report) for task in tasks]
        return decode.where(weights), timed
    finally:
        weights.close()


def _left_out(timed: Timings) -> list[str]:
    return [way for task, _ in timed for way in task.left_out]


def _figures(task: "Task", ways: "dict[str, Timing]") -> dict[str, Any]:
    notes = task.notes or {}
    return {
        way: {
            "milliseconds": round(1e3 * timing.seconds, 4),
            "ratio": round(timing.ratio, 4),
            "spread": [round(timing.low, 4), round(timing.high, 4)],
            **({"note": notes[way]} if way in notes else {}),
        }
        for way, timing in ways.items()
    }


def _show(timed: Timings) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column()
    for title in ("ms", "ratio", "quartiles"):
        table.add_column(title, justify="right", no_wrap=True)
    for task, ways in timed:
        table.add_section()
        table.add_row(task.name, style="bold")
        for way, timing in ways.items():
            note = f" ({task.notes[way]})" if task.notes and way in task.notes else ""
            table.add_row(
                f"  {way}{note}", f"{1e3 * timing.seconds:.2f}", f"{timing.ratio:.3f}",
                f"{timing.low:.3f}-{timing.high:.3f}",
            )  # fmt: skip
    screen().print(table)
    say("ms of a token, or to the first token; ratios of time, to the first way of each task.\n"
        "Llama is llama-cpp-python's own.")
    if left_out := _left_out(timed):
        say(f"Not installed, or not to be imported here, and so left out: {', '.join(left_out)}.")
