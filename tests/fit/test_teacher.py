"""Lessons: the prompted model's replies, and the same replies after a bare prompt."""

from collections.abc import Sequence

import pytest

from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.engine import Engine, Request
from steerplug.engine.model import Model
from steerplug.engine.thoughts import Thinking
from steerplug.errors import FitError
from steerplug.evaluate.replies import greedy
from steerplug.fit import teacher as teaching
from steerplug.fit.questions import general_prompts
from steerplug.fit.teacher import Lesson, prompted_chat, teach
from steerplug.preset import Example, Teacher
from tests.helpers.thinking import TEMPLATES, scripted
from tests.helpers.thinking import template as thinking

INSTRUCTION = "Answer like a pirate."
SHOWN = (Example(user="Hi", assistant="Ahoy!"), Example(user="Bye", assistant="Fair winds!"))
QUESTIONS = ("What is rain?", "Name a colour.")


def said(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


EXAMPLES = [("user", "Hi"), ("assistant", "Ahoy!"), ("user", "Bye"), ("assistant", "Fair winds!")]


@pytest.mark.parametrize(
    ("teacher", "messages", "expected"),
    [
        (Teacher(system=INSTRUCTION), [user("x")], [("system", INSTRUCTION), ("user", "x")]),
        (Teacher(examples=SHOWN), [user("x")], [*EXAMPLES, ("user", "x")]),
        (
            Teacher(system=INSTRUCTION, examples=SHOWN), [user("x")],
            [("system", INSTRUCTION), *EXAMPLES, ("user", "x")],
        ),
        (
            Teacher(system=INSTRUCTION, examples=SHOWN), [system("Be kind."), user("x")],
            [("system", f"{INSTRUCTION}\n\nBe kind."), *EXAMPLES, ("user", "x")],
        ),
        (
            Teacher(examples=SHOWN), [system("Be kind."), user("x")],
            [("system", "Be kind."), *EXAMPLES, ("user", "x")],
        ),
        (
            Teacher(system=INSTRUCTION), [user("x"), system("Later."), user("y")],
            [("system", INSTRUCTION), ("user", "x"), ("system", "Later."), ("user", "y")],
        ),
    ],
    ids=["instruction", "examples", "both", "own system message", "examples, own system message",
         "a system message later on"],
)  # fmt: skip
def test_the_teacher_s_prompt_is_put_in_front_of_a_chat(
    teacher: Teacher, messages: list[Message], expected: list[tuple[str, str]]
) -> None:
    before = said(messages)
    assert said(prompted_chat(teacher, messages)) == expected
    assert said(messages) == before


@pytest.fixture(scope="module")
def template(model: Model) -> ChatTemplate:
    return ChatTemplate.of(model)


PIRATE = Teacher(system=INSTRUCTION, examples=SHOWN)


@pytest.fixture(scope="module")
def lessons(engine: Engine, template: ChatTemplate) -> list[Lesson]:
    return teach(engine, template, PIRATE, QUESTIONS, seed=5)


def test_each_question_gives_a_lesson_with_both_prompts(
    lessons: list[Lesson], template: ChatTemplate
) -> None:
    for question, lesson in zip(QUESTIONS, lessons, strict=True):
        bare: list[Message] = [user(question)]
        assert lesson.bare == template.prompt(bare)
        assert lesson.prompted == template.prompt(prompted_chat(PIRATE, bare))
        assert len(lesson.prompted.tokens) > len(lesson.bare.tokens)
        assert 0 < len(lesson.reply) <= teaching.REPLY_TOKENS
        assert lesson.n_rows == len(lesson.reply) + 1


def test_rows_of_both_sides_stand_at_the_same_place_of_the_same_text(
    lessons: list[Lesson], model: Model
) -> None:
    """From the boundary token on, which is the last of either prompt, the tokens are equal."""
    for lesson in lessons:
        sides = [
            (*prompt.tokens, *lesson.reply)[len(prompt.tokens) - 1 :]
            for prompt in (lesson.prompted, lesson.bare)
        ]
        assert sides[0] == sides[1]
        assert len(sides[0]) == lesson.n_rows
        assert model.vocab.text([sides[0][0]]) == "\n"
        opening = model.vocab.tokenize("<|im_start|>assistant\n", special=True)
        for prompt in (lesson.prompted, lesson.bare):
            assert list(prompt.tokens[-len(opening) :]) == opening


def test_a_reply_holds_no_token_that_ends_it(lessons: list[Lesson], model: Model) -> None:
    assert not any(model.vocab.ends_generation(t) for lesson in lessons for t in lesson.reply)


def test_the_same_seed_teaches_the_same_and_another_seed_something_else(
    engine: Engine, template: ChatTemplate, lessons: list[Lesson]
) -> None:
    assert teach(engine, template, PIRATE, QUESTIONS, seed=5) == lessons
    other = teach(engine, template, PIRATE, QUESTIONS, seed=99)
    assert [lesson.reply for lesson in other] != [lesson.reply for lesson in lessons]


def test_the_same_question_twice_is_answered_twice_over(
    engine: Engine, template: ChatTemplate
) -> None:
    one, other = teach(engine, template, PIRATE, [QUESTIONS[0]] * 2, seed=5)
    assert one.prompted == other.prompted
    assert one.reply != other.reply


def test_progress_is_reported_for_every_question(engine: Engine, template: ChatTemplate) -> None:
    told: list[tuple[str, float, int]] = []
    teach(engine, template, PIRATE, QUESTIONS[:1], seed=5, report=lambda *now: told.append(now))
    done = [now for _, now, _ in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1)
    assert {(what, total) for what, _, total in told} == {("asking the prompted model", 1)}


def test_a_teacher_that_says_nothing_is_refused(
    engine: Engine, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "generate", lambda _request, _progress, **_: iter(()))
    with pytest.raises(FitError, match=r"answers none of 2 questions; give the teacher another"):
        teach(engine, template, PIRATE, QUESTIONS, seed=5)


def test_questions_that_get_no_answer_are_left_out(
    engine: Engine, template: ChatTemplate, lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, silent = engine.generate, lessons[0].prompted

    def generate(request: Request, _progress: object, *, whole: bool) -> object:
        return iter(()) if request.prompt == silent else real(request, whole=whole)

    monkeypatch.setattr(engine, "generate", generate)
    answered = teach(engine, template, PIRATE, QUESTIONS, seed=5)
    assert [lesson.bare for lesson in answered] == [lesson.bare for lesson in lessons[1:]]


def test_general_prompts_to_fit_on_are_never_those_to_measure_on() -> None:
    assert not set(general_prompts("fit")) & set(general_prompts("held_out"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_model_that_thinks_teaches_how_it_answers(
    name: str, engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(model, monkeypatch)("Aye, water.<|im_end|>")
    it = thinking(name, model)
    (lesson,) = teach(engine, it, Teacher(system=INSTRUCTION), QUESTIONS[:1], seed=0)
    assert model.vocab.text(list(lesson.reply)) == "Aye, water."
    ends = [model.vocab.text(list(p.tokens), special=True)[-30:]
            for p in (lesson.prompted, lesson.bare)]  # fmt: skip
    assert ends[0] == ends[1]
    assert lesson.bare == it.asked(QUESTIONS[0])
    assert lesson.bare.thoughts is not None
    assert not Thinking(lesson.bare.thoughts, model.vocab, lesson.bare.tokens).is_ahead


def test_a_thought_that_comes_all_the_same_is_no_answer(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(model, monkeypatch)("<think>")
    reply = greedy(engine, thinking("Granite 3.3", model).asked(QUESTIONS[0]), n_tokens=30)
    assert model.vocab.text(list(reply.tokens)).startswith("<think>\n</think>\n\n<response>")
    assert reply.text
    assert "think>" not in reply.text
