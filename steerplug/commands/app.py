"""All commands, by name."""

import sys
from typing import Annotated

import typer

import steerplug
from steerplug.commands.bench import bench
from steerplug.commands.build import build
from steerplug.commands.chat import chat
from steerplug.commands.demo import demo
from steerplug.commands.doctor import doctor
from steerplug.commands.eval import eval
from steerplug.commands.new import new
from steerplug.commands.presets import presets, show
from steerplug.commands.run import run

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, presets, show, new, build, eval, run, chat, doctor, bench):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steerplug {steerplug.__version__}")
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
