"""What brings a preset into a reply: `auto` takes steering where there is some, else the prompt."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from steerplug.build import store_key
from steerplug.engine.sampling import Sampling
from steerplug.errors import ContextOverflow, FitError, RequestError, StrengthError
from steerplug.fit.teacher import prompted_chat
from steerplug.library.presets import load_preset
from steerplug.preset.carrier import CARRIERS, Carrier, check_carrier
from steerplug.preset.methods import MethodName
from steerplug.session import Session, Settings
from steerplug.session.receipt import Reply
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering
from steerplug.store.store import Store

QUESTION = [{"role": "user", "content": "What is rain?"}]
OWN = [{"role": "system", "content": "Be brief."}, *QUESTION]
GREEDY = Settings(Sampling(temperature=0), max_tokens=12)
SYSTEM = "You are a knight who says Ni to everyone."
EXAMPLES = [{"user": "Who are you?", "assistant": "Ni! I am a knight."}]
TEACHER = {"system": SYSTEM, "examples": EXAMPLES}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session(
        "smollm2", n_ctx=512, n_threads=1, store=Store(tmp_path_factory.mktemp("store"))
    )
    yield session
    session.close()


Write = Callable[..., None]
Compile = Callable[..., None]


@pytest.fixture(autouse=True)
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session) -> Write:
    """Write a preset into the user's folder; nothing is compiled."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "presets"))
    (tmp_path / "presets").mkdir()
    monkeypatch.setattr(session, "report", fitted)

    def written(name: str, **changes: Any) -> None:
        said = {"schema": "steerplug/preset-v1", "name": name, "teacher": TEACHER,
                "fit": {"method": "psr"}, **changes}  # fmt: skip
        text = yaml.safe_dump({key: value for key, value in said.items() if value is not None})
        (tmp_path / "presets" / f"{name}.yaml").write_text(text)

    return written


def fitted(*_: object) -> None:
    raise AssertionError("a request must not wait for a fit")


@pytest.fixture
def compile_(session: Session) -> Iterator[Compile]:
    """Put steering of a preset into the store, with what its report says."""
    made = list[Path]()

    def compiled(name: str, method: MethodName | None = None, **fidelity: Any) -> None:
        preset, model = load_preset(name), session.model
        key = store_key(preset, session.engine, method)
        z = np.random.default_rng(1).standard_normal(model.n_embd).astype(np.float32)
        steering = Steering(name, model.n_embd, model.n_layer, {14: Delta.constant(z)})
        identity = Identity(
            name, preset.version, preset.digest, model.fingerprint, model.architecture,
            key.chat_template, key.method, 0, "0.1.0", 1.0, 0.0, 2.0, fidelity=fidelity,
        )  # fmt: skip
        session.store.publish(key, steering, identity)
        made.append(session.store.path(key))

    yield compiled
    for path in made:
        path.unlink(missing_ok=True)


def say(session: Session, words: Any, carrier: Carrier = "auto", chat: Any = QUESTION) -> Reply:
    return session.chat(chat, words, replace(GREEDY, carrier=carrier))


@pytest.mark.parametrize("chat", [QUESTION, OWN])
def test_what_is_not_compiled_is_its_prompt_at_full_fidelity(
    session: Session, write: Write, chat: Any
) -> None:
    write("knight")
    reply, bare = say(session, "knight", chat=chat), session.chat(chat, None, GREEDY)
    teacher = load_preset("knight").teacher
    assert teacher
    prompted = session.chat(prompted_chat(teacher, chat), None, GREEDY)
    assert (reply.text, reply.usage.prompt_tokens) == (prompted.text, prompted.usage.prompt_tokens)
    assert reply.text != bare.text
    receipt = reply.receipt
    (applied,) = receipt.steering
    assert (receipt.carrier, applied.carrier, applied.strength) == ("prompt", "prompt", 1.0)
    assert applied.reason == "not compiled for this model"
    assert receipt.prompt_tokens == prompted.usage.prompt_tokens - bare.usage.prompt_tokens
    assert (receipt.digest, receipt.tokens_steered) == ("", 0)


def test_the_second_request_finds_the_prompt_s_cells(session: Session, write: Write) -> None:
    write("knight")
    first = say(session, "knight")
    other = [{"role": "user", "content": "What is snow?"}]
    second = say(session, "knight", chat=other)
    assert second.usage.cached_tokens >= first.receipt.prompt_tokens


def test_once_compiled_the_next_reply_costs_no_tokens(
    session: Session, write: Write, compile_: Compile
) -> None:
    write("knight")
    bare = session.chat(QUESTION, None, GREEDY)
    assert say(session, "knight").receipt.carrier == "prompt"
    compile_("knight", gap_closed=0.9)
    reply = say(session, "knight")
    assert (reply.receipt.carrier, reply.receipt.prompt_tokens) == ("steering", 0)
    assert reply.usage.prompt_tokens == bare.usage.prompt_tokens
    assert reply.receipt.tokens_steered > 0
    assert say(session, "0.5*knight").receipt.steering[0].strength == 0.5


@pytest.mark.parametrize(
    ("fidelity", "reason"),
    [
        ({"gap_closed": 0.61}, "closes 61% of the gap to its prompt, less than 75%"),
        ({"gap_closed": 0.9, "checks": {"prompted": 0.95, "steered": 0.8}},
         "keeps 80% of its checks, and its prompt 95%"),
    ],
)  # fmt: skip
def test_what_falls_short_of_its_prompt_is_not_switched_to(
    session: Session, write: Write, compile_: Compile, fidelity: Any, reason: str
) -> None:
    write("knight")
    compile_("knight", **fidelity)
    (applied,) = say(session, "knight").receipt.steering
    assert (applied.carrier, applied.reason) == ("prompt", reason)
    (applied,) = say(session, "knight", "steering").receipt.steering
    assert (applied.carrier, applied.reason) == ("steering", "")


@pytest.mark.parametrize(
    ("default", "reason"),
    [(1.0, ""), (0.4, "closes 66% of the gap to its prompt, less than 75%"), (0.8, ""),
     (2.0, "closes 70% of the gap to its prompt, less than 75%")],
)  # fmt: skip
def test_it_is_judged_at_the_strength_that_the_preset_says(
    session: Session, write: Write, compile_: Compile, default: float, reason: str
) -> None:
    closed = {0.0: 0.0, 0.25: 0.5, 0.5: 0.76667, 1.0: 0.91, 1.5: 0.7, 1.75: None}
    points = [{"strength": at, "gap_closed": value} for at, value in closed.items()]
    write("knight", strength={"default": default})
    compile_("knight", gap_closed=0.91, strength=1.0, sweep={"default": 1.0, "points": points})
    (applied,) = say(session, "knight").receipt.steering
    assert applied.reason == reason


def test_a_better_file_is_noticed_between_two_replies(
    session: Session, write: Write, compile_: Compile
) -> None:
    write("knight")
    compile_("knight", gap_closed=0.61)
    assert say(session, "knight").receipt.carrier == "prompt"
    compile_("knight", gap_closed=0.91)
    assert say(session, "knight").receipt.carrier == "steering"


def test_a_better_file_by_another_method_is_noticed_too(
    session: Session, write: Write, compile_: Compile
) -> None:
    write("knight", fit={"method": "chain"})
    compile_("knight", gap_closed=0.61)
    assert say(session, "knight").receipt.carrier == "prompt"
    compile_("knight", "psr", gap_closed=0.91)
    assert say(session, "knight").receipt.carrier == "steering"


def test_both_is_the_instruction_without_examples_and_the_steering(
    session: Session, write: Write, compile_: Compile
) -> None:
    write("knight")
    compile_("knight", gap_closed=0.9)
    reply = say(session, "0.5*knight", "both")
    (applied,) = reply.receipt.steering
    assert (reply.receipt.carrier, applied.strength) == ("both", 0.5)
    system = [{"role": "system", "content": SYSTEM}]
    chat = session.chat([*system, *QUESTION], session.steering("0.5*knight")[0], GREEDY)
    assert (reply.text, reply.usage.prompt_tokens) == (chat.text, chat.usage.prompt_tokens)


def test_several_prompts_are_joined_in_the_mix_s_order_and_steering_stays_steering(
    session: Session, write: Write, compile_: Compile
) -> None:
    write("knight")
    write("shrub", teacher={"system": "Ask for a shrubbery.", "examples": [
        {"user": "Hello", "assistant": "Bring us a shrubbery!"}]})  # fmt: skip
    write("made")
    compile_("made", gap_closed=0.9)
    session.engine.forget()
    reply = say(session, "shrub + 0.5*made + knight", chat=OWN)
    assert reply.receipt.carrier == "prompt, steering"
    assert [one.carrier for one in reply.receipt.steering] == ["prompt", "steering", "prompt"]
    chat = [
        {"role": "system", "content": f"Ask for a shrubbery.\n\n{SYSTEM}\n\nBe brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Bring us a shrubbery!"},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "Ni! I am a knight."},
        *QUESTION,
    ]
    session.engine.forget()  # cells of a cached prompt differ by rounding
    expected = session.chat(chat, session.steering("0.5*made")[0], GREEDY)
    assert reply.text == expected.text
    assert reply.usage.prompt_tokens == expected.usage.prompt_tokens


@pytest.mark.parametrize("carrier", ["auto", "prompt"])
def test_decoding_holds_whatever_the_carrier(
    session: Session, write: Write, carrier: Carrier
) -> None:
    write("data", decoding={"format": "json"})
    reply = session.chat(QUESTION, "data", replace(GREEDY, carrier=carrier, max_tokens=60))
    assert reply.receipt.steering[0].format == "json"
    assert reply.text.lstrip()[0] in '{["0123456789tfn-'


@pytest.mark.parametrize(
    ("words", "carrier", "kind", "told"),
    [
        ("0.8*knight", "auto", StrengthError, "which has no strength 0.8"),
        ("-knight", "auto", StrengthError, "which has no strength -1"),
        ("knight + knight", "auto", StrengthError, "which has no strength 2"),
        ("knight", "steering", FitError, "run `steerplug build knight -m MODEL`"),
        ("knight", "both", FitError, "run `steerplug build knight -m MODEL`"),
        ("gloom", "auto", FitError, "no prompt can carry a contrast"),
        ("gloom", "prompt", RequestError, "is a contrast of texts and has no prompt"),
        ("gloom", "both", RequestError, "is a contrast of texts and has no prompt"),
        ("shown", "both", RequestError, "has example turns and no system text"),
    ],
)
def test_a_carrier_that_a_preset_cannot_have_is_one_sentence(
    session: Session, write: Write, words: str, carrier: Carrier, kind: type[Exception], told: str
) -> None:
    write("knight", strength={"min": -2.0, "max": 3.0})
    write("gloom", teacher=None, contrast={"positive": "Dark.", "negative": "Light."},
          fit={"method": "mean"})  # fmt: skip
    write("shown", teacher={"examples": EXAMPLES})
    with pytest.raises(kind) as caught:
        say(session, words, carrier)
    assert told in str(caught.value)


def test_nothing_of_a_prompt_is_nothing(session: Session, write: Write) -> None:
    write("knight")
    reply = say(session, "0*knight")
    assert (reply.receipt.steering, reply.receipt.carrier) == ((), "")
    assert reply.text == session.chat(QUESTION, None, GREEDY).text


def test_a_prompt_that_does_not_fit_names_the_preset(session: Session, write: Write) -> None:
    write("long", teacher={"system": "Say Ni. " * 300})
    with pytest.raises(ContextOverflow) as caught:
        say(session, "long")
    assert " tokens of the prompt are those of `long`, carried by prompt" in str(caught.value)
    assert "until `steerplug build long -m MODEL`; the prompt has " in str(caught.value)
    with pytest.raises(ContextOverflow) as caught:
        say(session, "long", "prompt")  # it may be compiled for all that
    assert "`long`, carried by prompt; the prompt has " in str(caught.value)


def test_plain_text_has_no_place_for_a_prompt(session: Session, write: Write) -> None:
    write("knight")
    with pytest.raises(RequestError, match="plain text that is continued has no place for one"):
        session.complete("Once", "knight", GREEDY)


def test_numbers_have_no_prompt(session: Session) -> None:
    z = np.ones(session.model.n_embd, np.float32)
    steering = Steering("one", session.model.n_embd, session.model.n_layer, {3: Delta.constant(z)})
    with pytest.raises(RequestError, match="holds numbers and no prompt"):
        say(session, steering, "prompt")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_carrier_is_known_by_its_name(carrier: Carrier) -> None:
    assert check_carrier(carrier) == carrier


def test_an_unknown_carrier_is_one_sentence() -> None:
    with pytest.raises(RequestError, match="there is no carrier 'promt'; did you mean `prompt`"):
        check_carrier("promt")
