"""What the help of a command shows: the options that most need, and on `--help-all` every one.

Rare options are those in a group (typer's `rich_help_panel`). They are read and completed as all
others are; only `--help` leaves them out, and says how many there are and of what.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_ALL = "steerplug.help_all"


class Command(TyperCommand):
    """A command whose help is plain lines, a section for each group of options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write it, within the width of the terminal."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            group = getattr(option, "rich_help_panel", None)
            if (group and not ctx.meta.get(_ALL)) or not (row := option.get_help_record(ctx)):
                continue
            is_argument = option.param_type_name == "argument"
            title = group or ("Arguments" if is_argument else "Options")
            row = (row[0].partition(" ")[0], row[1]) if is_argument else row
            sections.setdefault(title, []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def with_help_all(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that has groups of options the option that shows them."""
    own = inspect.signature(command)
    groups = [group for parameter in own.parameters.values() if (group := _group(parameter))]
    if not groups:
        return command

    @functools.wraps(command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def helped(help_all: bool, **words: Any) -> None:
        del help_all  # which has been shown, and ended the command
        command(**words)

    option = typer.Option(
        "--help-all", is_eager=True, callback=_show_all,
        help=f"Show {len(groups)} more options: {', '.join(dict.fromkeys(groups))}.",
    )  # fmt: skip
    shown = inspect.Parameter(
        "help_all", inspect.Parameter.KEYWORD_ONLY, default=False,
        annotation=Annotated[bool, option],
    )  # fmt: skip
    signature = own.replace(parameters=[*own.parameters.values(), shown])
    helped.__signature__ = signature  # type: ignore[attr-defined]  # which typer reads
    return helped


def _group(parameter: inspect.Parameter) -> str | None:
    """Return the group that an option is in, if it is in one."""
    for about in getattr(parameter.annotation, "__metadata__", ()):
        if group := getattr(about, "rich_help_panel", None):
            return str(group)
    return None


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit()
