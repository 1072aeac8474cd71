"""`steerplug bench`: what steering costs, and what its alternatives do, in one run.

Each task is done in several ways that take turns; see `benchmark.turns` for what is compared. With
`--fits`, presets are fitted in several ways instead; see `benchmark.fits`. With `--instructions`,
tasks are asked with their instruction as a prompt and as a preset; see `evaluate.instructions`.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from steerplug.commands.building import Building
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import fitted, learning, opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_json, say, screen
from steerplug.commands.proofs import made_by, show_report, shown
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
            help="Instead: fit these presets (a,b,c) quickly, by chain and by psr; it takes long.",
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
        bool, typer.Option("--quick", help="Have --instructions take quick fits.")
    ] = False,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Time steering against its alternatives: tokens, replies, many requests, LangChain."""
    if quick and not instructions:
        raise RequestError("--quick is for --instructions; say that as well, or leave it out.")
    if fits is not None:
        _bench_fits(fits, model, loading, as_json)
        return
    if instructions is not None:
        _bench_instructions(instructions, quick, model, loading, as_json)
        return
    from steerplug.files.picture import check_picture, publish

    if plot:
        check_picture(plot)
    with Building(f"Timing {rounds} rounds; leave the machine alone meanwhile.") as report:
        timed = _timed(model, loading, rounds, report)
    if plot:
        from steerplug.benchmark.picture import picture

        timings = {task.name: ways for task, ways in timed}
        publish(plot, lambda: picture(timings, f"steerplug bench on {model}"))
    if as_json:
        print_json({"model": model, "rounds": rounds, "left_out": _left_out(timed),
                    **{task.name.replace(" ", "_"): _figures(task, ways) for task, ways in timed}})
    else:
        _show(timed)
        if plot:
            say(f"Drawn in {plot}.")


def _bench_fits(names: str, model: str, loading: Loading, as_json: bool) -> None:
    from steerplug.benchmark.fits import fit, ways
    from steerplug.commands.show_fits import figures, show
    from steerplug.library.presets import load_preset

    presets = [load_preset(name.strip()) for name in names.split(",")]
    fitted = []
    with opened(model, loading) as session:
        for preset in presets:
            for way in ways(session.engine):
                told = f"Fitting {preset.name}: {way.name}; leave the machine alone meanwhile."
                with Building(told) as report:
                    fitted.append(fit(preset, session.engine, way, report))
    if as_json:
        print_json({"model": model, "fits": [figures(each) for each in fitted]})
    else:
        show(fitted)


def _bench_instructions(
    file: Path, quick: bool, model: str, loading: Loading, as_json: bool
) -> None:
    from steerplug.evaluate.instructions import (
        check_checkers,
        measure_instructions,
        preset_of,
        read_tasks,
    )

    begin, tasks = time.perf_counter(), read_tasks(file)
    check_checkers()
    with opened(model, loading) as session:
        mixes = {}
        for name in dict.fromkeys(task.name for task in tasks):
            with Building(learning(session, name)) as session.report:
                mixes[name] = 1.0 * fitted(session, preset_of(name), quick=quick).steering
        with Building(f"Asking {len(tasks)} tasks; what is done is kept.") as report:
            figures = measure_instructions(tasks, mixes, session.model, report)
        about = {"name": session.model.path.stem, "fingerprint": session.model.fingerprint,
                 "quick": quick}  # fmt: skip
    words = ["-m", shown(model), "--instructions", file.name, *(["--quick"] if quick else [])]
    show_report({
        **about, **made_by("bench", *words), "instructions": figures,
        "seconds": round(time.perf_counter() - begin, 3),
    }, as_json)  # fmt: skip


Timings = list[tuple["Task", "dict[str, Timing]"]]


def _timed(model: str, loading: Loading, rounds: int, report: "Report") -> Timings:
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
        return [take_turns(task(weights), rounds, report) for task in tasks]
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
    table.add_column(no_wrap=True)
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
