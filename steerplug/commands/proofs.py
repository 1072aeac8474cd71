"""`steerplug eval --turns` and its like: measures of a preset beside its prompt, as tables."""

import shlex
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from steerplug.commands.building import Building
from steerplug.commands.open_model import compiled, opened
from steerplug.commands.output import print_json, put, screen
from steerplug.commands.subject import subject_of
from steerplug.engine.loading import Loading
from steerplug.errors import PresetError
from steerplug.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from steerplug.preset import Preset


def prove(
    what: str, words: str, strength: float | None, model: str, loading: Loading, as_json: bool,
    *, n_chats: int | None = None,
) -> None:  # fmt: skip
    """Measure a preset in one way, and print what came of it.

    Args:
        what: "turns" or "overrides".
        words: the preset, or a mix.
        strength: instead of the preset's default.
        model: the model.
        loading: how it is loaded.
        as_json: whether to print JSON.
        n_chats: how many chats "turns" has; None: all.
    """
    from steerplug.evaluate.overrides import measure_overrides
    from steerplug.evaluate.turns import measure_turns

    begin, subject = time.perf_counter(), subject_of(words, strength)
    _check(what, words, subject.preset)
    measures: dict[str, Callable[..., dict[str, Any]]] = {
        "turns": partial(measure_turns, n_chats=n_chats), "overrides": measure_overrides
    }  # fmt: skip
    with opened(model, loading) as session:
        steered = compiled(session, subject.words)
        told = f"Measuring {subject.words}; what is done is kept, and not done again."
        with Building(told) as report:
            figures = measures[what](subject.preset, steered.mix, session.model, report=report)
        about = {
            "preset": words, "model": model, "name": session.model.path.stem,
            "fingerprint": session.model.fingerprint,
            "steering": [{"name": one.name, "version": one.version, "strength": one.strength,
                          "quick": one.quick} for one in steered.ingredients],
        }  # fmt: skip
    options = [f"--{what}", *(["--chats", str(n_chats)] if n_chats else []),
               *(["--strength", f"{strength:g}"] if strength is not None else [])]  # fmt: skip
    show_report({
        **about, **made_by("eval", words, "-m", model, *options), what: figures,
        "seconds": round(time.perf_counter() - begin, 3),
    }, as_json)  # fmt: skip


def _check(what: str, words: str, preset: "Preset") -> None:
    if preset.teacher is None:
        raise PresetError(
            f"`{words}` is a contrast of texts, and has no prompt to compare with; measure a "
            f"preset with a teacher, or leave out --{what}."
        )
    if what == "overrides" and not preset.checks:
        raise PresetError(
            f"`{words}` has no checks, which are what --overrides counts; add some to its YAML."
        )


def made_by(*words: str) -> dict[str, Any]:
    """Return by what a report is made: the command, the version, and the commit of a checkout."""
    folder = Path(__file__).parents[1]
    try:
        asked = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        commit = found.stdout.strip() if found.returncode == 0 else ""
    except OSError:
        commit = ""
    command = shlex.join(["steerplug", *words])
    return {"command": command, "version": __version__, "commit": commit or None}


def show_report(report: "Mapping[str, Any]", as_json: bool) -> None:
    """Print a report as JSON, or as tables."""
    from steerplug.evaluate.tables import tables

    if as_json:
        print_json(report)
        return
    for table in tables(report):
        put(table.about)
        drawn = Table(box=box.SIMPLE_HEAD)
        for i, title in enumerate(table.titles):
            drawn.add_column(title, justify="right" if i else "left", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*row)
        screen().print(drawn)
