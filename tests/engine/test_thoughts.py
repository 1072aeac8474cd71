"""Thoughts of a reply: told apart from the answer, left unsteered, bounded, held to no format."""

import json
from collections.abc import Iterator
from functools import partial

import pytest

from steerplug.engine.constraint import Choice
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.engine.thoughts import Place, Thinking
from steerplug.errors import RequestError
from tests.helpers.alone import steering
from tests.helpers.thinking import Script, scripted
from tests.helpers.tiny_models import tiny_model

THINK = ThoughtMarks("<think>\n", "\n</think>\n\n")
HARMONY = ThoughtMarks(
    "<gh_stars>analysis<file_sep>", "<issue_start>",
    lead="<jupyter_start>assistant<gh_stars>final<file_sep>",
    head="<gh_stars>final<file_sep>", expected=True,
)  # fmt: skip
"""gpt-oss's marks, in control tokens that SmolLM2 has."""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """A tiny one, for a test says what it writes."""
    model = Model(tiny_model("llama"))
    yield model
    model.close()


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    engine = Engine(model, n_ctx=512, n_threads=1)
    yield engine
    engine.close()


@pytest.fixture
def script(model: Model, monkeypatch: pytest.MonkeyPatch) -> Script:
    return scripted(model, monkeypatch)


def prompt(model: Model, end: str = "", thoughts: ThoughtMarks = THINK) -> Prompt:
    text = f"<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n{end}"
    return Prompt(tuple(model.vocab.tokenize(text, special=True)), thoughts=thoughts)


def said(pieces: list[Piece]) -> tuple[str, str]:
    """The thought and the answer."""
    return (
        "".join(piece.text for piece in pieces if piece.in_thought),
        "".join(piece.text for piece in pieces if not piece.in_thought),
    )


def run(engine: Engine, request: Request, progress: Progress | None = None) -> list[Piece]:
    return list(engine.generate(request, progress or Progress()))


GREEDY = Sampling(temperature=0)

CASES = {
    "a thought and an answer": ("", "<think>\nHm, so.\n</think>\n\nBlue.", "Hm, so.", "Blue."),
    "no white space": ("", "<think>Hm</think>Blue", "Hm", "Blue"),
    "the prompt opened it": ("<think>\n", "Hm.\n</think>\n\nBlue.", "Hm.", "Blue."),
    "no thought": ("", "Blue <b>is</b> it.\n", "", "Blue <b>is</b> it.\n"),
    "an empty one": ("", "<think>\n\n</think>\n\nBlue.", "", "Blue."),
    "half a mark": ("", "<think>\n1 </ 2 </thin>\n</think> <thing>", "1 </ 2 </thin>", "<thing>"),
    "a mark in the answer": ("", "<think>x</think>The tag `<think>`.", "x", "The tag `<think>`."),
    "closed by the prompt": ("<think>\n\n</think>\n\n", " Blue.", "", " Blue."),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_thoughts_are_told_apart_and_their_marks_are_no_text(
    engine: Engine, model: Model, script: Script, case: str
) -> None:
    end, text, thought, answer = CASES[case]
    script(text + "<|im_end|>")
    assert said(run(engine, Request(prompt(model, end)))) == (thought, answer)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<gh_stars>analysis<file_sep>Hm.<issue_start><jupyter_start>assistant<gh_stars>final"
         "<file_sep>Blue.", "Hm.", "Blue."),
        ("<gh_stars>final<file_sep>Blue.", "", "Blue."),
        ("<gh_stars>analysis<file_sep>One.<issue_start><jupyter_start>assistant<gh_stars>analysis"
         "<file_sep>Two.<issue_start><jupyter_start>assistant<gh_stars>final<file_sep>Blue.",
         "One.Two.", "Blue."),
        ("<gh_stars>analysis<file_sep>Hm.<issue_start><jupyter_start>assistant<gh_stars>commentary"
         "<file_sep>I look.<issue_start><jupyter_start>assistant<gh_stars>final<file_sep>Blue.",
         "Hm.", "I look.Blue."),
    ],
)  # fmt: skip
def test_channels_are_frames_and_no_text(
    engine: Engine, model: Model, script: Script, text: str, thought: str, answer: str
) -> None:
    script(text + "<|im_end|>")
    assert said(run(engine, Request(prompt(model, thoughts=HARMONY)))) == (thought, answer)


@pytest.mark.parametrize(
    ("marks", "text", "thought", "answer"),
    [
        (ThoughtMarks("<gh_stars>thought\n", "<file_sep>"),
         "<gh_stars>thought\nA.<file_sep>One <gh_stars>thought\nB.<file_sep> two", "A.B.",
         "One two"),
        (ThoughtMarks("<gh_stars>", "<file_sep>"), "One.<file_sep> Two.", "", "One.Two."),
        (THINK, "<think>A.</think>One.\n<think>\nB.</think> Two.", "A.",
         "One.\n<think>\nB.</think> Two."),
    ],
)  # fmt: skip
def test_another_thought_begins_where_no_text_can_be_meant(
    engine: Engine, model: Model, script: Script, marks: ThoughtMarks, text: str, thought: str,
    answer: str,
) -> None:  # fmt: skip
    script(text + "<|im_end|>")
    assert said(run(engine, Request(prompt(model, thoughts=marks)))) == (thought, answer)


def test_a_thought_that_the_room_cuts_off_is_a_thought(
    engine: Engine, model: Model, script: Script
) -> None:
    script("<think>\nOne two three four five six seven")
    progress = Progress()
    request = Request(prompt(model), max_tokens=9)
    thought, answer = said(run(engine, request, progress))
    assert thought.startswith("One two")
    assert answer == ""
    assert progress.finish_reason == "length"
    assert progress.n_thought == 9 - len(model.vocab.tokenize("<think>\n")) + 1


def test_stop_strings_end_the_answer_and_no_thought(
    engine: Engine, model: Model, script: Script
) -> None:
    script("<think>\nNo STOP here.\n</think>\n\nBlue STOP red")
    progress = Progress()
    request = Request(prompt(model), stop=["STOP"])
    assert said(run(engine, request, progress)) == ("No STOP here.", "Blue ")
    assert progress.finish_reason == "stop"


def test_a_thought_is_left_unsteered_as_is_what_frames_it(
    engine: Engine, model: Model, script: Script
) -> None:
    mix = 1e-4 * steering(model, layers=(1, 2))  # too little to change what is said

    def n_steered(marks: ThoughtMarks, text: str, end: str = "") -> int:
        script(text)
        progress = Progress()
        n = len(model.vocab.tokenize(text, special=True))
        request = Request(
            prompt(model, end, marks), mix, GREEDY, max_tokens=n,
            unsteered=frozenset({"thinking"}),
        )  # fmt: skip
        run(engine, request, progress)
        return progress.n_steered

    answer = "\n\nBlue it is."
    n_answer = len(model.vocab.tokenize(answer))
    assert n_steered(THINK, "Hm, so.\n</think>" + answer, "<think>\n") == n_answer
    assert n_steered(THINK, "Blue it is.") == len(model.vocab.tokenize("Blue it is."))
    framed = "<issue_start><jupyter_start>assistant<gh_stars>final<file_sep>"
    text = f"<gh_stars>analysis<file_sep>Hm, so.{framed}Blue it is."
    assert n_steered(HARMONY, text) == len(model.vocab.tokenize("Blue it is."))


def test_a_turn_that_comes_back_is_steered_as_when_it_was_made(
    engine: Engine, model: Model, script: Script
) -> None:
    begin = prompt(model, "<think>\n")
    text = "Hm, so.\n</think>\n\nBlue it is.<|im_end|>"
    script(text)
    asked = partial(
        Request, mix=1e-4 * steering(model, layers=(1, 2)), sampling=GREEDY,
        unsteered=frozenset({"thinking"}),
    )  # fmt: skip
    run(engine, asked(begin))
    reply = tuple(model.vocab.tokenize(text, special=True))
    more = tuple(model.vocab.tokenize("\n<|im_start|>user\nAnd?<|im_end|>\n", special=True))
    n = len(begin.tokens)
    again = Prompt((*begin.tokens, *reply, *more), ((n - 1, n + len(reply) - 1),), thoughts=THINK)
    progress = Progress()
    run(engine, asked(again, max_tokens=1), progress)
    assert progress.n_cached == n + len(reply) - 1


@pytest.mark.parametrize("budget", [0, 1, 4])
@pytest.mark.parametrize("end", ["<think>\n", ""])
def test_a_budget_closes_the_thought_and_the_answer_follows(
    engine: Engine, model: Model, script: Script, budget: int, end: str
) -> None:
    thought = "a b c d e f g h i j"
    script(("" if end else "<think>\n") + thought)
    progress = Progress()
    request = Request(prompt(model, end), thinking_budget=budget, max_tokens=40, sampling=GREEDY)
    told, answer = said(run(engine, request, progress))
    n_before = 0 if end else 1  # the line end behind the mark
    assert told == " ".join(thought.split()[: max(budget - n_before, 0)])
    assert answer.strip()
    n_marks = len(model.vocab.tokenize("\n</think>\n\n"))
    assert budget < progress.n_thought <= budget + n_marks


def test_a_budget_cuts_no_character(engine: Engine, model: Model, script: Script) -> None:
    tokens = model.vocab.tokenize("🦉")
    assert len(tokens) > 2
    script("🦉🦉")
    request = Request(prompt(model, "<think>\n"), thinking_budget=2, max_tokens=30)
    assert said(run(engine, request))[0] == "🦉"


SCHEMA = {
    "type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.mark.parametrize("marks", [THINK, HARMONY])
def test_a_format_holds_the_answer_and_no_thought(
    engine: Engine, model: Model, script: Script, marks: ThoughtMarks
) -> None:
    end = marks.opening if marks is THINK else ""
    script("Hm, {so}." + marks.closing)
    request = Request(prompt(model, end, marks), grammar=SCHEMA, must_fit=True,
                      max_tokens=60, sampling=GREEDY)  # fmt: skip
    thought, answer = said(run(engine, request))
    assert thought == "Hm, {so}."
    assert list(json.loads(answer)) == ["colour"]


@pytest.mark.parametrize("text", ["One two three four " * 30, "Hm.<|im_end|>"])
def test_a_thought_leaves_room_for_the_format(
    engine: Engine, model: Model, script: Script, text: str
) -> None:
    script(text)
    request = Request(prompt(model, "<think>\n"), grammar=SCHEMA, must_fit=True, max_tokens=40)
    thought, answer = said(run(engine, request))
    assert thought
    assert text.startswith(thought)
    assert list(json.loads(answer)) == ["colour"]


@pytest.mark.parametrize("marks", [THINK, HARMONY])
def test_room_that_is_too_small_is_refused_with_what_suffices(
    engine: Engine, model: Model, script: Script, marks: ThoughtMarks
) -> None:
    end = marks.opening if marks is THINK else ""
    asked = partial(Request, prompt(model, end, marks), grammar=SCHEMA, must_fit=True)
    with pytest.raises(RequestError, match=r"max_tokens is 4, .* only sure to be whole with \d+"):
        run(engine, asked(max_tokens=4))
    with pytest.raises(RequestError) as refusal:
        run(engine, asked(max_tokens=9))
    n = int(str(refusal.value).split("with ")[1].split(";")[0])
    script("Hm, one two three four five six seven")
    _, answer = said(run(engine, asked(max_tokens=n, sampling=GREEDY)))
    assert list(json.loads(answer)) == ["colour"]


def test_without_a_thought_the_format_holds_from_the_beginning(
    engine: Engine, model: Model
) -> None:
    request = Request(prompt(model), grammar=Choice(("blue", "red")))
    assert said(run(engine, request)) in [("", "blue"), ("", "red")]


def test_every_cut_of_a_reply_into_tokens_tells_the_same(model: Model) -> None:
    text = "<think>\nA </ b\n\n</think>\n\n <b>Blue</b> <th"
    single = [t for t in range(model.vocab.n_tokens) if len(model.vocab.piece(t)) == 1]
    by_byte = {model.vocab.piece(token): token for token in single}
    tokens = [by_byte[bytes([byte])] for byte in text.encode()]
    thinking = Thinking(THINK, model.vocab)
    told = [part for token in tokens for part in thinking.read(token)] + thinking.finish()
    assert b"".join(part.data for part in told if part.of_thought) == b"A </ b"
    assert b"".join(part.data for part in told if not part.of_thought) == b"<b>Blue</b> <th"
    assert thinking.place is Place.ANSWER
