"""All commands, by name."""

import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

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
from steerplug.commands.farm import farm
from steerplug.commands.help import Command, with_help_all
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
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUPS: dict[str, dict[str, tuple[Callable[..., None], str]]] = {
    "Answers": {
        "demo": (demo, "demo --preset formal"),
        "run": (run, 'run --steer "0.8*pirate + concise" "What is rain?"'),
        "chat": (chat, "chat -m model.gguf --steer pirate"),
        "try": (try_preset, "try pirate"),
        "serve": (serve, "serve -m model.gguf --compile all"),
    },
    "Presets": {
        "presets": (presets, "presets -m model.gguf"),
        "show": (show, "show pirate"),
        "new": (new, "new my-preset --from-prompt prompt.txt"),
        "lint": (lint, "lint my-preset.yaml"),
        "build": (build, "build pirate -m model.gguf"),
        "eval": (eval, "eval pirate -m model.gguf"),
        "farm": (farm, "farm build -m small.gguf -m large.gguf --address auto"),
        "diff": (diff, "diff pirate cheerful"),
    },
    "Other people's": {
        "add": (add, "add gh:owner/sea@v1.0.0"),
        "pack": (pack, "pack sea --compiled"),
        "page": (page, "page sea"),
        "import": (import_vectors, "import happy.gguf --to mine.gguf"),
        "export": (export, "export anger-calm --to calm.gguf"),
    },
    "This machine": {
        "doctor": (doctor, "doctor -m model.gguf"),
        "bench": (bench, "bench -m model.gguf"),
    },
}
"""Each command, with an example, in the group in which help shows it."""

def _variables(command: Callable[..., None]) -> str:
    """Return what is said of variables where options may come from them."""
    if "n_ctx" not in inspect.signature(command).parameters:
        return ""
    which = "Options" if command is serve else "Options of loading"
    return f"\n\n{which} may come from variables as well: STEERPLUG_N_CTX is --n-ctx."


COMMANDS = {name: command for group in GROUPS.values() for name, (command, _) in group.items()}
for group, commands in GROUPS.items():
    for name, (command, example) in commands.items():
        does = inspect.getdoc(command) or ""
        app.command(
            name, cls=Command, rich_help_panel=group, short_help=does,
            help=f"{does}\n\nExample: steerplug {example}{_variables(command)}",
        )(with_help_all(command))  # fmt: skip
app.add_typer(packs, name="packs", rich_help_panel="Other people's")


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


@cache
def command_line() -> Callable[..., Any]:
    """Return all commands as one, which reads a command line; slow to make anew."""
    return typer.main.get_command(app)
