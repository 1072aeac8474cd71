"""The twelve distilled presets: teachers a tiny model follows, and checks that tell the difference.

What every shipped file has in common, contrasts included, is in `tests/preset/test_preset.py`.
"""

import re
from pathlib import Path

import pytest

from steerplug.build import build_preset
from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine, Request
from steerplug.engine.sampler import Sampling
from steerplug.fit.questions import general_prompts
from steerplug.fit.teacher import prompted_chat
from steerplug.library.presets import list_presets, load_preset, shipped_folder
from steerplug.preset import Preset, Teacher
from steerplug.store.store import Store

NAMES = (
    "no-assistant-fluff",
    "json-output",
    "helpful-persona",
    "concise",
    "pirate",
    "french",
    "formal",
    "explain-simply",
    "bullet-points",
    "weddings",
    "step-by-step",
    "cheerful",
)
MOST_PROMPT_TOKENS = 400
LONGEST_EXAMPLE = 40  # words
QUESTION_WORDS = {"what", "who", "how", "why", "is", "was", "do", "am", "i", "me", "my", "a", "the"}

PLAIN = (  # what a small model says without steering, cut where its token limit was
    "The Roman Empire fell due to a combination of factors. One of the main reasons was the "
    "collapse of the Roman economy. The empire's vast territories and vast resources made it "
    "difficult to manage, and the empire's economy was heavily reliant on agriculture",
    "I'm sorry for any inconvenience, but as a chatbot designed to assist with digital services, "
    "I don't have the ability to access real-world data unless it's provided by a licensed AI "
    "service. I'm here to assist with digital",
)


def shipped(name: str) -> Preset:
    return load_preset(str(shipped_folder() / f"{name}.yaml"))


def teacher_of(name: str) -> Teacher:
    teacher = shipped(name).teacher
    assert teacher is not None
    return teacher


def failed(preset: Preset, reply: str) -> list[str]:
    return [check.kind for check in preset.checks if not check.passes(reply)]


def subject(question: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", question.casefold())) - QUESTION_WORDS


def test_the_distilled_presets_that_were_asked_for_are_listed() -> None:
    listed = {one.name: one for one in list_presets() if one.shipped}
    assert set(NAMES) <= set(listed)
    assert [name for name in NAMES if listed[name].error] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_distilled_preset_is_complete(name: str) -> None:
    preset = shipped(name)
    assert preset.license == "MIT"
    assert "Too much looks like" in preset.description
    assert (preset.fit.method, preset.fit.layers, preset.fit.prompts) == ("auto", "auto", "general")
    assert (preset.strength.default, preset.strength.min) == (1.0, 0.0)
    assert preset.checks
    assert teacher_of(name).system


@pytest.mark.parametrize("name", NAMES)
def test_a_teachers_examples_are_several_short_and_different(name: str) -> None:
    examples = teacher_of(name).examples
    assert 3 <= len(examples) <= 10
    assert len({example.user for example in examples}) == len(examples)
    assert len({example.assistant for example in examples}) == len(examples)
    assert max(len(example.assistant.split()) for example in examples) <= LONGEST_EXAMPLE


@pytest.mark.parametrize("name", NAMES)
def test_a_teachers_own_examples_pass_its_checks(name: str) -> None:
    preset = shipped(name)
    for example in teacher_of(name).examples:
        assert failed(preset, example.assistant) == [], example.assistant


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reply", PLAIN)
def test_a_plain_reply_fails_the_checks(name: str, reply: str) -> None:
    assert failed(shipped(name), reply)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_presets_examples_fail_the_checks(name: str) -> None:
    """A check that another style passes as well says nothing about this one."""
    preset = shipped(name)
    lax = []
    for other in NAMES:
        if {name, other} & {"concise", "no-assistant-fluff"}:
            continue  # brevity is no enemy of style
        examples = teacher_of(other).examples
        passed = sum(not failed(preset, example.assistant) for example in examples)
        if other != name and passed > len(examples) / 2:
            lax.append(other)
    assert lax == []


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_never_answers_what_is_asked_of_the_student(name: str) -> None:
    """Fit, held-out and neutral prompts stay unseen: an example would give the answer away."""
    asked = [*general_prompts("fit"), *general_prompts("held_out"), *general_prompts("neutral")]
    for example in teacher_of(name).examples:
        own = subject(example.user)
        assert own
        assert [prompt for prompt in asked if own <= subject(prompt)] == [], example.user


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_is_worth_replacing_and_no_longer_than_needed(name: str, engine: Engine) -> None:
    template = _template(engine)
    bare: list[Message] = [{"role": "user", "content": "Why do leaves fall?"}]
    prompted = template.prompt(prompted_chat(teacher_of(name), bare))
    saved = len(prompted.tokens) - len(template.prompt(bare).tokens)
    assert 100 <= saved <= MOST_PROMPT_TOKENS


@pytest.mark.parametrize("name", ["json-output", "formal"])
def test_the_prompted_model_passes_the_checks_and_the_bare_one_does_not(
    name: str, quick_engine: Engine
) -> None:
    preset, template = shipped(name), _template(quick_engine)
    bare: list[Message] = [{"role": "user", "content": "How is paper made?"}]

    def reply(chat: list[Message], *, constrained: bool = False) -> str:
        schema = ANY_JSON if constrained and preset.decoding else None
        greedy = Sampling(temperature=0)
        request = Request(template.prompt(chat), sampling=greedy, max_tokens=48, grammar=schema)
        return "".join(piece.text for piece in quick_engine.generate(request))

    assert failed(preset, reply(prompted_chat(teacher_of(name), bare), constrained=True)) == []
    assert failed(preset, reply(bare))


def _template(engine: Engine) -> ChatTemplate:
    model = engine.model
    return ChatTemplate.of(model)


@pytest.mark.parametrize("name", NAMES)
def test_a_distilled_preset_ships_compiled_and_keeps_what_was_promised(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    """A changed preset needs its compiled file made again: see the README's development section."""
    built = build_preset(shipped(name), engine, store=Store(tmp_path))
    assert built.from_store
    assert built.path.parent.parent.name == "compiled"
    assert list(tmp_path.iterdir()) == []
    said = built.identity.fidelity
    assert said["gap_closed"] >= 0.8
    assert said["neutral_kl"] <= 0.05
    checks = said["checks"]
    assert checks["n"] == 40
    assert checks["steered"] >= checks["prompted"] - 0.05
