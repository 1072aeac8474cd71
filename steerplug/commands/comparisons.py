"""What `steerplug bench` measures instead of time: fits, rivals, instructions."""

import time
from itertools import product
from pathlib import Path

from steerplug.commands.building import Building
from steerplug.commands.open_model import learning, opened
from steerplug.commands.output import print_json
from steerplug.commands.proofs import made_by, shown
from steerplug.commands.show_report import show_report
from steerplug.engine.loading import Loading
from steerplug.errors import FitError


def bench_fits(names: str, model: str, loading: Loading, as_json: bool) -> None:
    """Fit presets in several ways; see `benchmark.fits`."""
    from steerplug.benchmark.fits import fit, fit_journal, ways
    from steerplug.commands.show_fits import figures, show
    from steerplug.library.presets import load_preset

    presets = [load_preset(name.strip()) for name in names.split(",")]
    fitted = []
    with opened(model, loading) as session:
        kept = fit_journal(presets, session.engine)
        for preset, way in product(presets, ways(session.engine)):
            name = f"{preset.name}: {way.name}"
            if name not in kept:
                told = f"Fitting {name}; leave the machine alone meanwhile. What is done is kept."
                with Building(told) as report:
                    kept[name] = fit(preset, session.engine, way, report)
            fitted.append(kept[name])
    if as_json:
        print_json({"model": model, "fits": [figures(each) for each in fitted]})
    else:
        show(fitted)
    kept.end()


def bench_rivals(
    name: str, model: str, loading: Loading, rounds: int, *, quick: bool, as_json: bool
) -> None:
    """Hold a preset against other carriers of its prompt; see `benchmark.rivals`."""
    from steerplug.commands.show_rivals import figures, show
    from steerplug.evaluate.questions import reported_on
    from steerplug.fit.distill.readable import missing
    from steerplug.library.presets import load_preset

    preset = load_preset(name)
    if lacking := missing():
        raise FitError(
            f"rivals are trained, which needs {' and '.join(lacking)}; run "
            "`pip install 'steerplug[fit]'`."
        )
    from steerplug.benchmark.rivals.comparison import compare

    with opened(model, loading) as session, Building(
        f"Training and measuring what carries {preset.name}; leave the machine alone meanwhile."
    ) as report:
        compared = compare(
            preset, session.engine, store=session.store, questions=reported_on(preset),
            quick=quick, rounds=rounds, report=report,
        )  # fmt: skip
    if as_json:
        print_json({"model": model, "preset": preset.name, "quick": quick, "rounds": rounds,
                    "seed": preset.fit.seed, **figures(compared)})  # fmt: skip
    else:
        show(preset.name, compared)


def bench_instructions(
    file: Path, quick: bool, model: str, loading: Loading, as_json: bool
) -> None:
    """Ask tasks with their instruction in four ways; see `evaluate.instructions`."""
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
                mixes[name] = 1.0 * session.build(preset_of(name), quick=quick).steering
        with Building(f"Asking {len(tasks)} tasks; what is done is kept.") as report:
            figures = measure_instructions(tasks, mixes, session.model, report)
        about = {"name": session.model.path.stem, "fingerprint": session.model.fingerprint,
                 "quick": quick}  # fmt: skip
    words = ["-m", shown(model), "--instructions", file.name, *(["--quick"] if quick else [])]
    show_report({
        **about, **made_by("bench", *words), "instructions": figures,
        "seconds": round(time.perf_counter() - begin, 3),
    }, as_json)  # fmt: skip
