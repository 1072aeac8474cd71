"""`steerplug page`: the README of a folder of presets, with real replies before and after."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import fitted, opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_json, put, say
from steerplug.engine.loading import Loading
from steerplug.errors import PresetError

if TYPE_CHECKING:
    from steerplug.library.page import Entry, Example
    from steerplug.preset import Preset
    from steerplug.session import Session

MAX_TOKENS = 48

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of preset files.")]


@with_loading
def page(
    folder: Folder, model: Model = MODEL, as_json: Json = False, *, loading: Loading
) -> None:
    """Write a folder's README from its presets, with replies before and after."""
    from steerplug.library.page import MARK
    from steerplug.library.page import page as page_of
    from steerplug.library.presets import load_preset

    if not folder.is_dir():
        raise PresetError(f"there is no folder `{folder}`; name one that holds presets.")
    path = folder / "README.md"
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise PresetError(f"the folder {folder} holds no .yaml file; name one with presets.")
    if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
        raise PresetError(f"{path} was not made by this command; move it away first.")
    presets = [load_preset(str(file)) for file in files]
    with opened(model, loading) as session:
        entries = [
            _entry(session, preset, str(file), model, i)
            for i, (preset, file) in enumerate(zip(presets, files, strict=True))
        ]
        text = page_of(entries, session.model.path.stem, MAX_TOKENS)
    path.write_text(text, encoding="utf-8", newline="\n")
    if as_json:
        print_json({"path": str(path), "presets": [preset.name for preset in presets]})
    else:
        put(f"{path} shows {len(presets)} preset{'s' if len(presets) > 1 else ''}.")


def _entry(session: "Session", preset: "Preset", file: str, model: str, i: int) -> "Entry":
    from steerplug.library.page import Entry

    built = fitted(session, preset, file, model)
    say(f"asking {preset.name} ...")
    return Entry(preset, built.identity.fidelity, example(session, preset, question(preset, i)))


def question(preset: "Preset", i: int) -> str:
    """Return what the i-th preset of a page is asked: the i-th question it never saw."""
    from steerplug.evaluate.questions import QUESTIONS, unseen

    questions = unseen(preset, QUESTIONS)
    return questions[i % len(questions)]


def example(session: "Session", preset: "Preset", asked: str) -> "Example":
    """Return the bare and the steered reply to a question, greedy."""
    from steerplug.engine.sampling import Sampling
    from steerplug.library.page import Example
    from steerplug.session import Settings

    greedy = Settings(Sampling(temperature=0), max_tokens=MAX_TOKENS)
    messages = [{"role": "user", "content": asked}]
    bare, steered = (
        session.chat(messages, steering, greedy).text.strip() for steering in (None, preset)
    )
    return Example(asked, bare, steered)
