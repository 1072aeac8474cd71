"""presets/README.md is what `steerplug page presets` writes: figures, words and real replies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from steerplug.commands.main import main
from steerplug.commands.page import MAX_TOKENS, question
from steerplug.engine.context import Context
from steerplug.library.page import Entry, Example, examples_of, page
from steerplug.library.presets import load_preset, shipped_folder
from steerplug.preset import Preset
from steerplug.session import Session
from steerplug.steering.header import kept_files
from steerplug.steering.value import Mix
from steerplug.store.store import Store
from tests.helpers.alone import unlike_alone

pytestmark = pytest.mark.model

README = shipped_folder() / "README.md"
PRESETS = [load_preset(str(path)) for path in sorted(shipped_folder().glob("*.yaml"))]
MODEL = "SmolLM2-135M-Instruct.Q4_1"
AGAIN = ("concise", "pirate")
BEGUN, AS_LIKELY = 16, 0.3  # tokens, nats


def test_the_page_is_what_presets_and_figures_say() -> None:
    text = README.read_text(encoding="utf-8")
    examples = examples_of(text)
    entries = []
    for preset in PRESETS:
        kept = kept_files(preset.name, [shipped_folder() / "compiled"])
        said = [one for _, one in kept if one["preset_digest"] == preset.digest]
        figures = said[0]["fidelity"] if said else {}
        entries.append(Entry(preset, figures, examples[preset.name]))
    assert page(entries, MODEL, MAX_TOKENS) == text, "run steerplug page presets"
    asked = [question(preset, i) for i, preset in enumerate(PRESETS)]
    assert [examples[preset.name].question for preset in PRESETS] == asked
    assert all(one.bare != one.steered for one in examples.values())


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session("smollm2", n_ctx=512, n_threads=1, store=Store(tmp_path_factory.mktemp("s")))
    yield session
    session.close()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take examples whose replies have but begun."""
    monkeypatch.setattr("steerplug.commands.page.MAX_TOKENS", 16)


@pytest.mark.parametrize("name", AGAIN)
def test_an_example_comes_out_again(name: str, session: Session) -> None:
    """Its beginning, up to tokens that are as likely: another processor rounds otherwise."""
    shown = examples_of(README.read_text(encoding="utf-8"))[name]
    prompt = session.template.prompt([{"role": "user", "content": shown.question}])
    context = Context(session.model, n_ctx=512, n_threads=1)
    for text, mix in ((shown.bare, Mix()), (shown.steered, session.steering(name)[0])):
        tokens = session.model.vocab.tokenize(text)[:BEGUN]
        assert unlike_alone(context, prompt, mix, tokens) < AS_LIKELY
    context.close()


def test_examples_are_read_back_whatever_they_hold() -> None:
    awkward = [
        Example("Why?", "one\n\n```text\nx\n```", "## not-a-title\n*no*\n- a | b"),
        Example("What *is* it?", "{", "}"),
    ]
    entries = [
        Entry(preset, {}, one) for preset, one in zip(PRESETS, awkward, strict=False)
    ]
    assert list(examples_of(page(entries, MODEL, 9)).values()) == awkward


def test_a_quick_fit_says_so_on_a_page() -> None:
    entry = Entry(PRESETS[0], {"gap_closed": 0.5, "quick": True}, Example("Why?", "a", "b"))
    assert "| 50% quick |" in page([entry], MODEL, 9)


def test_a_readme_by_hand_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["page", str(tmp_path)]) == 2
    assert "holds no .yaml file" in capsys.readouterr().err
    assert main(["page", str(tmp_path / "nosuch")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    preset = shipped_folder() / "pirate.yaml"
    (tmp_path / "pirate.yaml").write_bytes(preset.read_bytes())
    (tmp_path / "README.md").write_text("mine\n")
    assert main(["page", str(tmp_path)]) == 2
    assert "README.md was not made by this command" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine\n"


@pytest.mark.usefixtures("begun")
def test_a_page_is_made_of_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    preset: Preset = load_preset("cheerful")
    (tmp_path / "cheerful.yaml").write_bytes((shipped_folder() / "cheerful.yaml").read_bytes())
    assert main(["page", str(tmp_path)]) == 0
    assert "shows 1 preset." in capsys.readouterr().out
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert list(examples_of(text)) == [preset.name]
    assert "| [`cheerful`](#cheerful) | Answers full of joy, with exclamation marks. |" in text
    assert main(["page", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text
