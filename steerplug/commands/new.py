"""`steerplug new`: a prompt in a file, also another program's, becomes a preset of your own."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from steerplug.commands.options import MODEL, Json
from steerplug.commands.output import print_fields, print_hanging, print_json, put, screen
from steerplug.errors import PresetError, unreadable

if TYPE_CHECKING:
    from steerplug.preset import Preset

Name = Annotated[str, typer.Argument(metavar="NAME", help="What to call the preset.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="FILE", show_default=False,
        help="A prompt of another program: a character card (PNG, JSON, CHARX), a Modelfile, a "
        ".prompt, a template of llm, a configuration of promptfoo; - reads stdin.",
    ),
]  # fmt: skip
PromptFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", show_default=False,
        help="An instruction as text, or a chat in JSON; - reads stdin.",
    ),
]  # fmt: skip
Folder = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="FOLDER", help="Where to put it; default: the folder of your presets.",
        show_default=False,
    ),
]  # fmt: skip
Method = Annotated[
    str, typer.Option(metavar="METHOD", help="How to fit it: auto, psr, or chain (needs no torch).")
]


def new(
    name: Name,
    from_file: From = None,
    from_prompt: PromptFile = None,
    to: Folder = None,
    method: Method = "auto",
    as_json: Json = False,
) -> None:
    """Make a preset of your own from a prompt you have, here or in another program."""
    from steerplug.library.presets import user_folder
    from steerplug.library.save import save_preset
    from steerplug.preset.mix import Ingredient, format_mix

    if (from_file is None) == (from_prompt is None):
        raise PresetError(
            "say where the prompt is: `--from FILE` for another program's, or `--from-prompt FILE` "
            "for a text; steerplug new --help."
        )
    if from_file is not None:
        preset, origin = _imported(from_file, name, method)
    else:
        preset, origin = _replaced(str(from_prompt), name, method), {}
    path = save_preset(preset, to)
    assert preset.teacher is not None
    reference = name if path.parent == user_folder() else str(path)
    mix = shlex.quote(format_mix((Ingredient(reference),)))
    report = {
        "preset": name,
        "path": str(path),
        "method": preset.fit.method,
        "system_characters": len(preset.teacher.system or ""),
        "n_examples": len(preset.teacher.examples),
        **origin,
        "at_once": f'steerplug run --steer {mix} "..."',
        "next": f"steerplug build {shlex.quote(reference)} -m {MODEL}",
    }
    if as_json:
        print_json(report)
    else:
        _print(report)


def _replaced(file: str, name: str, method: str) -> "Preset":
    from steerplug.files.yaml_file import MAX_BYTES
    from steerplug.preset.from_prompt import FIT, preset_from_messages
    from steerplug.preset.prompt_file import read_prompt

    source, shown = _named(file)
    messages = read_prompt(_content(file, MAX_BYTES + 1), source)
    about = {"description": f"Replaces {shown}.", "fit": {**FIT, "method": method}}
    return preset_from_messages(messages, name, about, source)


def _imported(file: str, name: str, method: str) -> "tuple[Preset, dict[str, Any]]":
    """Return the preset made of another program's file, and what to tell about it."""
    from steerplug.interchange.prompts.reading import MAX_FILE, read_sorted

    source, shown = _named(file)
    found = read_sorted(_content(file, MAX_FILE + 1), source)
    found.description = found.description or f"Replaces {shown}."
    preset = found.preset(name, method)
    return preset, {
        "format": found.format,
        "n_checks": len(preset.checks),
        "taught": [part._asdict() for part in found.taught],
        "stays": [part._asdict() for part in found.stays],
    }


def _named(file: str) -> tuple[str, str]:
    """Return what errors call a file, and what a description does."""
    from steerplug.files.yaml_file import printable

    if file == "-":
        return "standard input", "a prompt that was piped"
    return printable(file), f"the prompt in {Path(printable(file)).name}"


def _print(report: dict[str, Any]) -> None:
    n_characters, n_examples = report["system_characters"], report["n_examples"]
    parts = [f"an instruction of {n_characters} characters"] if n_characters else []
    parts += [f"{n_examples} example turn{'s' if n_examples > 1 else ''}"] if n_examples else []
    was = f", made of {report['format']}" if "format" in report else ""
    put(f"{report['preset']} is a preset now{was}.\n")
    checks = {"checks": f"{n} for its replies"} if (n := report.get("n_checks")) else {}
    replaces = " and ".join(parts)
    print_fields(replaces=replaces, **checks, file=report["path"])
    _print_parts("What it replaces:", report.get("taught", []))
    _print_parts("What it does not, and where that belongs:", report.get("stays", []))
    print()
    print_fields(
        now=f"{report['at_once']} (carried by its prompt)",
        later=f"{report['next']} (then without its prompt)",
    )


def _print_parts(title: str, parts: list[dict[str, str]]) -> None:
    if not parts:
        return
    put(Text(f"\n{title}", "bold"))
    for part in parts:
        print_hanging(screen(), Text("  "), f"{part['what']}: {part['why']}")


def _content(prompt_file: str, most: int) -> bytes:
    """Return the first `most` bytes of a file."""
    if prompt_file == "-":
        return sys.stdin.buffer.read(most)
    try:
        with Path(prompt_file).expanduser().open("rb") as file:
            return file.read(most)
    except (OSError, ValueError, RuntimeError) as error:  # also a NUL, or no such `~user`
        raise PresetError(f"the prompt file {prompt_file!r} {unreadable(error)}") from None
