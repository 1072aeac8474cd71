"""`steerplug new`: prompts as people have them become presets, and everything else one sentence."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerplug.commands.main import main
from steerplug.library.presets import load_preset
from steerplug.preset import Preset
from tests.interchange.prompts.card_files import base64_of, png, v2

Call = Callable[..., tuple[int, str, str]]
RAIN = [
    {"role": "user", "content": "What is rain?"},
    {"role": "assistant", "content": "Water, matey."},
]
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which is not there yet; the working folder is its parent."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "presets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "presets"


@pytest.fixture
def call(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run `steerplug new` on a prompt: bytes, text, or a chat, which becomes JSON."""
    assert not folder.exists()

    def call(prompt: object, *words: object, file: str = "prompt.txt") -> tuple[int, str, str]:
        text = prompt if isinstance(prompt, str | bytes) else json.dumps(prompt)
        content = text.encode() if isinstance(text, str) else text
        if file == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
        else:
            Path(file).write_bytes(content)
        code = main(["new", *map(str, words or ("mine",)), "--from-prompt", file])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def made(ended: tuple[int, str, str], name: str = "mine") -> Preset:
    code, out, err = ended
    assert (code, err) == (0, "")
    assert f"steerplug build {name} -m smollm2" in out
    assert f'steerplug run --steer {name} "..." (carried by its prompt)' in out
    return load_preset(name)


def test_a_text_becomes_the_instruction(call: Call, folder: Path) -> None:
    ended = call("\n\nYou are a sailor.\r\n\r\n  Be brief: 雨 #1 \n\n")
    preset = made(ended)
    assert preset.teacher is not None
    assert preset.teacher.system == "You are a sailor.\n\n  Be brief: 雨 #1 "
    assert preset.teacher.examples == ()
    assert preset.fit.model_dump(exclude_unset=True) == {
        "method": "auto", "layers": "auto", "prompts": "general"
    }  # fmt: skip
    assert preset.description == "Replaces the prompt in prompt.txt."
    assert "an instruction of 36 characters\n" in ended[1]
    assert str(folder / "mine.yaml") in ended[1]
    assert os.listdir(folder) == ["mine.yaml"]


def test_a_chat_becomes_instruction_and_examples(call: Call) -> None:
    chat = [
        say("system", "Talk."), say("developer", [{"type": "text", "text": "Like a "},
        {"type": "text", "text": "pirate."}]), *RAIN, say("system", "Always."), *RAIN,
    ]  # fmt: skip
    ended = call(chat)
    preset = made(ended)
    assert preset.teacher is not None
    assert preset.teacher.system == "Talk.\n\nLike a pirate.\n\nAlways."
    assert [(one.user, one.assistant) for one in preset.teacher.examples] == [
        ("What is rain?", "Water, matey.")
    ] * 2
    assert "characters and 2 example turns\n" in ended[1]


@pytest.mark.parametrize(
    ("prompt", "file"),
    [
        (json.dumps(RAIN), "prompt.txt"),
        (json.dumps({"model": "gpt", "temperature": 0, "tools": [], "messages": RAIN}), "p.json"),
        (" \n" + json.dumps(RAIN, indent=2), "-"),
        (b"\xef\xbb\xbf" + json.dumps(RAIN).encode(), "chat.JSON"),
    ],
)
def test_a_chat_in_json_is_known_by_its_look_or_name(call: Call, prompt: object, file: str) -> None:
    preset = made(call(prompt, file=file))
    assert preset.teacher is not None
    assert preset.teacher.system is None
    assert len(preset.teacher.examples) == 1


@pytest.mark.parametrize("text", ["[INST] Be brief. [/INST]", "{persona} speaks.", "[brief] yes"])
def test_an_instruction_may_begin_with_a_bracket(call: Call, text: str) -> None:
    teacher = made(call(text, file="-")).teacher
    assert teacher is not None
    assert teacher.system == text


def test_where_and_how_can_be_said(call: Call, folder: Path, tmp_path: Path) -> None:
    code, out, err = call(
        "Be kind.", "pirate", "--to", tmp_path / "my own", "--method", "chain", "--json", file="-"
    )
    path = tmp_path / "my own" / "pirate.yaml"
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "preset": "pirate", "path": str(path), "method": "chain", "system_characters": 8,
        "n_examples": 0, "at_once": f"""steerplug run --steer '"{path}"' "...\"""",
        "next": f"steerplug build '{path}' -m smollm2",
    }  # fmt: skip
    preset = load_preset(str(path))
    assert preset.fit.method == "chain"
    assert preset.description == "Replaces a prompt that was piped."
    assert not folder.exists()


REFUSED: dict[str, tuple[object, list[str]]] = {
    "empty": ("", ["prompt.txt is empty"]),
    "blank": (" \n\t", ["prompt.txt is empty"]),
    "latin-1": (b"caf\xe9", ["prompt.txt is not UTF-8 text (byte 3)"]),
    "utf-16": ("Be brief.".encode("utf-16"), ["not UTF-8"]),
    "huge": ("x" * 300_000, ["larger than 256 kB", "cut it down"]),
    "long": ("x" * 33_000, ["prompt.txt: `system` is", "may have 32000; shorten it."]),
    "control": ("a\x07b", ["control character '\\x07'"]),
    "torn": ('[{"role": "user",\n "content": "a"', ["prompt.txt, line 2", "not valid"]),
    "no chat": ({"role": "user", "content": "a"}, ["is no chat", "`messages`"]),
    "no message": ([{"role": "user"}, "a"], ["is no chat"]),
    "nothing": ([], ["prompt.txt is empty"]),
    "question": ([*RAIN, RAIN[0]], ["ends with a question that has no answer", "remove"]),
    "twice": ([RAIN[0], RAIN[0]], ["message 1 is of the user", "no answer to the question"]),
    "answer": (RAIN[::-1], ["message 0 is of the assistant", "no question before it"]),
    "tool": ([*RAIN, say("tool", "7")], ["message 2 has the role `tool`", "keep system, user"]),
    "role": ([{"content": "a"}], ["message 0 has the role `None`"]),
    "call": ([RAIN[0], CALLED], ["message 1 holds `tool_calls`"]),
    "tools": ({"messages": RAIN, "tools": [{}]}, ["offers `tools`", "messages only"]),
    "image": (
        [say("user", [{"type": "image_url", "image_url": {"url": "x"}}]), RAIN[1]],
        ["message 0 has a part of type `image_url`", "texts only"],
    ),
    "null": ([say("user", None), RAIN[1]], ["message 0 has no text"]),
    "number": ([say("system", 7)], ["message 0 has int as content"]),
    "blank turn": ([RAIN[0], say("assistant", " ")], ["message 1 is empty"]),
    "surrogate": (b'[{"role": "system", "content": "\\ud800"}]',
                  ["`system` holds half of a character", "U+D800"]),
    "many": (RAIN * 65, ["`examples` is", "at most 64 items"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_become_a_preset_is_refused(call: Call, folder: Path, what: str) -> None:
    prompt, words = REFUSED[what]
    refused(call(prompt), *words)
    assert not folder.exists()


def refused(ended: tuple[int, str, str], *words: str) -> None:
    code, out, err = ended
    assert (code, out) == (2, "")
    (sentence,) = err.splitlines()
    assert sentence.startswith("steerplug: ")
    assert sentence.endswith((".", "?", "`."))
    assert [word for word in words if word not in sentence] == []


def test_endless_brackets_and_numbers_are_no_chat(call: Call) -> None:
    refused(call("[" * 100_000, file="deep.json"), "deep.json is no chat in JSON")
    refused(call('[{"content": ' + "1" * 9_000 + "}]"), "is no chat in JSON")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Mine"], "`name` is 'Mine', but a name is 1 to 64 of a-z"),
        (["../mine"], "`name` is '../mine', but a name"),
        (["pirate"], "`pirate` is a preset that ships"),
        (["mine", "--method", "prs"], "did you mean `psr`?"),
        (["mine", "--method", "actadd"], "`actadd` needs a `contrast`"),
        (["mine", "--to", "prompt.txt"], "prompt.txt/mine.yaml cannot be written"),
    ],
)
def test_a_name_method_or_folder_that_will_not_do_is_refused(
    call: Call, folder: Path, words: list[str], said: str
) -> None:
    refused(call("Be brief.", *words), said)
    assert not folder.exists()


@pytest.mark.parametrize("words", [["new", "mine", "--from"], ["run", "hi", "-m"], ["show"]])
def test_what_permissions_forbid_is_not_a_matter_of_the_path(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / ("locked.gguf" if "-m" in words else "locked.yaml")
    path.write_text("")
    monkeypatch.setattr(Path, "open", locked)
    assert main([*words, str(path)]) == 2
    assert capsys.readouterr().err.endswith(
        "cannot be read (Permission denied); check its permissions.\n"
    )


def test_a_preset_is_never_overwritten(call: Call, folder: Path) -> None:
    made(call("Be brief."))
    before = (folder / "mine.yaml").read_bytes()
    refused(call("Be loud."), f"there is {folder / 'mine.yaml'} already", "another name")
    assert (folder / "mine.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "why"),
    [("no/such", "No such file"), (".", "Is a directory"), ("~nobody-here/x", "home"), ("a\0", "")],
)
def test_a_prompt_file_that_cannot_be_read_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, why: str
) -> None:
    code = main(["new", "mine", "--from-prompt", file])
    said = capsys.readouterr()
    refused((code, said.out, said.err), f"the prompt file {file!r} cannot be read", why)
    assert not folder.exists()


def test_a_prompt_has_to_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["new", "mine"])
    said = capsys.readouterr()
    refused((code, said.out, said.err), "--from-prompt", "steerplug new --help")
    assert not folder.exists()


# Prompts of other programs


@pytest.fixture
def bring(folder: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `steerplug new mine --from` a file of that content."""
    assert not folder.exists()

    def bring(content: bytes, file: str, *words: str) -> tuple[int, str, str]:
        Path(file).write_bytes(content)
        code = main(["new", "mine", "--from", file, *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return bring


def test_a_card_becomes_a_preset_and_every_part_is_told(bring: Call) -> None:
    content = png(("chara", base64_of(v2())))
    ended = bring(content, "anna.png")
    preset = made(ended)
    assert preset.description == "Answers as Anna, a character from a card."
    assert preset.teacher is not None
    assert len(preset.teacher.examples) == 2
    taught, stays = ended[1].split("What it replaces:")[1].split("What it does not, and where")
    assert "  description: who the character is" in taught
    assert "  scenario: facts of one story" in stays
    assert "  character_book (1): facts" in stays
    assert "made of a character card (V2, PNG, chunk `chara`)" in ended[1]


def test_what_became_of_a_file_is_there_as_json(bring: Call) -> None:
    config = b'{"prompts": ["Be brief.\\n{{q}}"], "defaultTest": {"assert": [{"type": "is-json"}]}}'
    code, out, err = bring(config, "promptfooconfig.json", "--json", "--method", "chain")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["format"] == "a configuration of promptfoo"
    assert report["n_checks"] == 1
    assert [part["what"] for part in report["taught"]] == ["the prompt", "assert is-json"]
    assert [part["what"] for part in report["stays"]] == ["lines of the prompt with `q`"]
    assert load_preset("mine").fit.method == "chain"


def test_strangers_words_do_not_reach_the_terminal(bring: Call) -> None:
    card = v2(name="An\u202ena", description="gruff \u200b", evil=1)
    card["data"]["x\x1b[2J\ud800"] = 1
    code, out, err = bring(json.dumps(card).encode(), "a\u202e.json")
    assert (code, err) == (0, "")
    assert not {"\x1b", "\ud800", "\u202e"} & {*out.replace(str(Path.cwd()), "")}


@pytest.mark.parametrize(
    ("content", "file", "words"),
    [
        (png(), "a.png", ["a.png is a picture without a character card"]),
        (b"FROM llama3\n", "Modelfile", ["Modelfile is a Modelfile without an instruction"]),
        (b"PK\3\4", "a.charx", ["a.charx is a damaged zip"]),
        (b"", "a.txt", ["a.txt is empty"]),
    ],
)
def test_a_file_that_will_not_do_is_one_sentence(
    bring: Call, folder: Path, content: bytes, file: str, words: list[str]
) -> None:
    refused(bring(content, file), *words)
    assert not folder.exists()


def test_one_source_is_named(bring: Call) -> None:
    refused(bring(b"x", "a.txt", "--from-prompt", "a.txt"), "say where the prompt is", "--help")


def test_a_teacher_goes_out_and_comes_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "pirate", "--as", "card"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["data"]["name"] == "pirate"
    assert "the model reads 678 characters with every chat" in said.err
    assert main(["export", "pirate", "--as", "modelfile", "--to", "Sea"]) == 0
    assert "ollama create pirate -f Sea" in capsys.readouterr().out
    assert main(["new", "mine", "--from", "Sea"]) == 0
    assert load_preset("mine").teacher == load_preset("pirate").teacher
    capsys.readouterr()
    assert main(["export", "pirate", "--as", "card", "--to", "c.json", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"] == Path("c.json").read_text()
    assert folder.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pirate", "--as", "modelfil"], "did you mean `modelfile`?"),
        (["pirate"], "`--to FILE.gguf`"),
        (["love-hate", "--as", "card"], "made from a contrast"),
        (["0.5*pirate + concise", "--as", "card"], "no preset"),
        (["pirate", "--as", "card", "--to", "there"], "there already"),
        (["pirate", "--as", "modelfile", "-m", "no.gguf"], "no model `no.gguf`"),
    ],
)
def test_what_cannot_go_out_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert not folder.exists()
    Path("there").write_text("")
    code = main(["export", *words])
    ended = capsys.readouterr()
    refused((code, ended.out, ended.err), said)
