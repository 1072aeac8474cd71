"""`steerplug lint`: is this file a good preset? Each problem with its line and its cure."""

from pathlib import Path
from typing import Annotated

import typer

from steerplug.commands.completion import preset_names
from steerplug.commands.exit_codes import FAILED
from steerplug.commands.options import Json
from steerplug.commands.output import print_json, put, say

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="Preset files, folders of them, or presets' names.",
        autocompletion=preset_names,
    ),
]


def lint(files: Files, as_json: Json = False) -> None:
    """Check preset files, and say on which line what is wrong."""
    from steerplug.library.lint import lint as problems_of
    from steerplug.library.lint import preset_files

    checked = list(dict.fromkeys(preset_files(files)))
    problems = [problem for path in checked for problem in problems_of(path)]
    if as_json:
        print_json({
            "files": [str(path) for path in checked],
            "problems": [
                {"path": str(problem.path), "line": problem.line, "problem": problem.said}
                for problem in problems
            ],
        })  # fmt: skip
    else:
        for problem in problems:
            put(problem.said)
        many = f"{len(checked)} file{'s' if len(checked) > 1 else ''}"
        wrong = len({problem.path for problem in problems})
        say(f"{many} checked; {wrong or 'none'} with problems.", "red" if wrong else "green")
    if problems:
        raise typer.Exit(FAILED)
