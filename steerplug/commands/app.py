"""All commands, by name."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from steerplug.commands.add import add
from steerplug.commands.bench import bench
from steerplug.commands.build import build
from steerplug.commands.chat import chat
from steerplug.commands.demo import demo
from steerplug.commands.diff import diff
from steerplug.commands.doctor import doctor
from steerplug.commands.eval import eval
from steerplug.commands.export import export
from steerplug.commands.import_vectors import import_vectors
from steerplug.commands.lint import lint
from steerplug.commands.new import new
from steerplug.commands.pack import pack
from steerplug.commands.packs import app as packs
from steerplug.commands.page import page
from steerplug.commands.presets import presets, show
from steerplug.commands.run import run
from steerplug.commands.serve import serve
from steerplug.commands.try_preset import try_preset
from steerplug.version import __version__

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo, "presets": presets, "show": show, "new": new, "lint": lint, "build": build,
    "eval": eval, "diff": diff, "run": run, "chat": chat, "serve": serve, "try": try_preset,
    "import": import_vectors, "export": export, "page": page,
    "add": add, "pack": pack, "doctor": doctor, "bench": bench,
}  # fmt: skip
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(packs, name="packs")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steerplug {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def steerplug_command(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Steer a local model with presets instead of system prompts. Begin with: steerplug demo."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
