"""`steerplug diff`: what two presets say differently, and how alike their steering is."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from steerplug.commands.completion import preset_names
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import building, opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_hanging, print_json, put, say, screen, visible
from steerplug.engine.loading import Loading

if TYPE_CHECKING:
    from steerplug.evaluate.similarity import Similarity
    from steerplug.library.presets import LibraryFile
    from steerplug.preset.compare import Change
    from steerplug.session import Session
    from steerplug.steering.value import Steering

CHATS = 3

Named = Annotated[
    str,
    typer.Argument(
        help="A preset's name or path, or a steering file.", autocompletion=preset_names
    ),
]


@with_loading
def diff(
    a: Named, b: Named, model: Model = MODEL, as_json: Json = False, *, loading: Loading
) -> None:
    """Show how two presets differ: in words, and in what they add at each block."""
    from steerplug.library.presets import look_up
    from steerplug.preset.compare import changes

    files = look_up(a), look_up(b)
    first, second = (file.preset for file in files)
    words = changes(first, second) if first and second else []
    with opened(model, loading) as session:
        steerings = [_steering(session, file) for file in files]
        missing = [
            name for name, steering in zip((a, b), steerings, strict=True) if steering is None
        ]
        blocks = [] if missing else _similarity(session, *filter(None, steerings))
    if as_json:
        print_json({
            "a": a, "b": b, "model": model, "words": [vars(change) for change in words],
            "blocks": [vars(block) for block in blocks], "not_built": missing,
        })  # fmt: skip
        return
    if first and second:
        _show_words(words)
    if missing:
        commands = " and ".join(f"`{building(name, model)}`" for name in missing)
        say(f"To compare the numbers as well, {commands} must have run.")
    else:
        screen().print(_table(blocks, a, b))


def _steering(session: "Session", file: "LibraryFile") -> "Steering | None":
    """Return the steering of a file, or of a preset if it was built before."""
    from steerplug.build import find_built
    from steerplug.steering.file import read_steering

    model = session.model
    if file.preset is None:
        return read_steering(file.path, n_embd=model.n_embd, n_layer=model.n_layer)[0]
    built = find_built(file.preset, session.engine, store=session.store)
    return built.steering if built else None


def _similarity(session: "Session", a: "Steering", b: "Steering") -> "list[Similarity]":
    from steerplug.engine.reader import reading
    from steerplug.evaluate.similarity import similarities
    from steerplug.fit.questions import general_prompts, spread

    questions = spread(general_prompts("held_out"), CHATS)
    prompts = [session.template.asked(text) for text in questions]
    with reading(session.model, session.engine.context.n_ctx) as reader:
        return similarities(a, b, session.engine, reader, prompts)


def _show_words(words: "list[Change]") -> None:
    console, key = screen(), ""
    if not words:
        console.print("They say the same.")
    for change in words:
        if change.key != key:
            key = change.key
            put(Text(key, "bold"))
        for sign, text, style in (("-", change.old, "red"), ("+", change.new, "green")):
            if text is not None:
                print_hanging(console, Text(f"  {sign} ", style), visible(text), style)


def _table(blocks: "list[Similarity]", a: str, b: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for title in ("block", "cosine", f"{a} adds", f"{b} adds"):
        table.add_column(title, justify="right", overflow="fold")
    for block in blocks:
        cosine = "-" if block.cosine is None else f"{block.cosine:.2f}"
        table.add_row(str(block.il), cosine, *map(_share, (block.size_a, block.size_b)))
    return table


def _share(size: float) -> str:
    return f"{size:.1%}" if size else "-"

