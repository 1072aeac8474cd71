"""`steerplug new`: a prompt in a file becomes a preset of your own."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from steerplug.commands.options import MODEL, Json
from steerplug.commands.output import print_fields, print_json, screen
from steerplug.errors import PresetError

Name = Annotated[str, typer.Argument(metavar="NAME", help="What to call the preset.")]
PromptFile = Annotated[
    str,
    typer.Option(
        metavar="FILE", help="An instruction as text, or a chat in JSON; - reads stdin."
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
    from_prompt: PromptFile,
    to: Folder = None,
    method: Method = "auto",
    as_json: Json = False,
) -> None:
    """Make a preset of your own from a prompt you have."""
    from steerplug.files.yaml_file import printable
    from steerplug.library.presets import user_folder
    from steerplug.library.save import save_preset
    from steerplug.preset.from_prompt import FIT, preset_from_messages
    from steerplug.preset.prompt_file import read_prompt

    is_piped = from_prompt == "-"
    source = "standard input" if is_piped else printable(from_prompt)
    messages = read_prompt(_content(from_prompt), source)
    shown = "a prompt that was piped" if is_piped else f"the prompt in {Path(source).name}"
    about = {"description": f"Replaces {shown}.", "fit": {**FIT, "method": method}}
    preset = preset_from_messages(messages, name, about, source)
    path = save_preset(preset, to)
    assert preset.teacher is not None
    reference = name if path.parent == user_folder() else str(path)
    report = {
        "preset": name,
        "path": str(path),
        "method": preset.fit.method,
        "system_characters": len(preset.teacher.system or ""),
        "n_examples": len(preset.teacher.examples),
        "next": f"steerplug build {shlex.quote(reference)} -m {MODEL}",
    }
    if as_json:
        print_json(report)
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    n_characters, n_examples = report["system_characters"], report["n_examples"]
    parts = [f"an instruction of {n_characters} characters"] if n_characters else []
    parts += [f"{n_examples} example turn{'s' if n_examples > 1 else ''}"] if n_examples else []
    screen().print(f"{report['preset']} is ready to be built.\n", soft_wrap=True)
    print_fields(replaces=" and ".join(parts), file=report["path"], next=report["next"])


def _content(prompt_file: str) -> bytes:
    from steerplug.files.yaml_file import MAX_BYTES

    if prompt_file == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with Path(prompt_file).expanduser().open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # also a NUL, or no such `~user`
        why = getattr(error, "strerror", None) or error
        raise PresetError(
            f"the prompt file {prompt_file!r} cannot be read ({why}); check its path."
        ) from None
