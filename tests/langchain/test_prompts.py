"""LangChain's prompts become presets: the static part goes into one, the rest stays a template."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
    trim_messages,
)
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
    SystemMessagePromptTemplate,
)

from steerplug import ChatSteerplug, load_preset, preset_from_prompt, save_preset, split_prompt
from steerplug.build import store_key
from steerplug.engine.loading import Loading
from steerplug.engine.sampler import Sampling
from steerplug.errors import PresetError
from steerplug.library.save import to_yaml
from steerplug.preset import Preset
from steerplug.session import Session, Settings
from steerplug.session.shared import forget_sessions, session_for
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering

SYSTEM = ("system", "You are a sailor. Write {{}} for nothing.")
RAIN = [("human", "What is rain?"), ("ai", "Water, matey.")]
ASKED = ("human", "{question}")
SELECTED = [{"input": "2+2", "output": "4"}, {"input": "2+3", "output": "5"}]
ONE_EXAMPLE = ChatPromptTemplate([("human", "{input}"), ("ai", "{output}")])


def template(*messages: Any, **partial: Any) -> ChatPromptTemplate:
    return ChatPromptTemplate(list(messages)).partial(**partial)


def teacher(preset: Preset) -> tuple[str | None, list[tuple[str, str]]]:
    assert preset.teacher is not None
    examples = [(one.user, one.assistant) for one in preset.teacher.examples]
    return preset.teacher.system, examples


def test_a_text_becomes_the_instruction_as_it_stands() -> None:
    preset = preset_from_prompt("Answer in {braces}.\n", "mine")
    assert teacher(preset) == ("Answer in {braces}.\n", [])
    assert (preset.name, preset.fit.method) == ("mine", "auto")
    assert Preset.from_yaml(to_yaml(preset).encode()) == preset


@pytest.mark.parametrize(
    "messages",
    [
        [SystemMessage("Talk."), HumanMessage("Hi"), AIMessage("Ahoy")],
        [SystemMessage([{"type": "text", "text": "Talk."}]), HumanMessage("Hi"), AIMessage("Ahoy")],
        [("system", "Talk."), ("human", "Hi"), ("ai", "Ahoy")],
        [{"role": "system", "content": "Talk."}, HumanMessage("Hi"), AIMessage("Ahoy")],
    ],
)
def test_messages_become_instruction_and_examples(messages: list[Any]) -> None:
    assert teacher(preset_from_prompt(messages, "mine")) == ("Talk.", [("Hi", "Ahoy")])


def test_fields_are_those_of_the_yaml() -> None:
    preset = preset_from_prompt(
        "Be brief.", "mine", description="Short.", fit={"method": "chain"}, tags=["style"],
        checks=[{"kind": "max_words", "count": 9}],
    )  # fmt: skip
    assert (preset.description, preset.fit.method, preset.tags) == ("Short.", "chain", ("style",))
    assert preset.checks[0].passes("Nine words.")


SPLIT: dict[str, tuple[ChatPromptTemplate, int, int]] = {
    "chain": (template(SYSTEM, *RAIN, ASKED), 3, 1),
    "no question": (template(SYSTEM, *RAIN), 3, 0),
    "history": (template(SYSTEM, MessagesPlaceholder("history"), ASKED), 1, 2),
    "optional history": (template(SYSTEM, ("placeholder", "{history}"), ASKED), 1, 2),
    "fixed question": (template(SYSTEM, *RAIN, ("human", "And snow?")), 3, 1),
    "fixed question, then history": (
        template(SYSTEM, ("human", "Hi"), MessagesPlaceholder("history")), 1, 2
    ),
    "partial": (template(("system", "You are {who}."), ASKED, who="a sailor"), 1, 1),
    "partial in both parts": (
        template(("system", "You are {who}."), ("human", "{who}: {question}"), who="a sailor"), 1, 1
    ),
    "filled placeholder": (
        template(SYSTEM, MessagesPlaceholder("shots"), ASKED,
                 shots=[HumanMessage("Hi"), AIMessage("Ahoy")]), 3, 1,
    ),
    "filled optional placeholder": (
        template(SYSTEM, ("placeholder", "{shots}"), ASKED, shots=[("human", "Hi"), ("ai", "A")]),
        3, 1,
    ),
    "few shots": (
        template(SYSTEM, FewShotChatMessagePromptTemplate(
            examples=SELECTED, example_prompt=ONE_EXAMPLE), ASKED), 5, 1,
    ),
    "template in a template": (template(template(SYSTEM, *RAIN), template(ASKED)), 3, 1),
    "retrieval": (template(SYSTEM, ("system", "Known: {context}"), ASKED), 1, 2),
    "mustache": (
        ChatPromptTemplate([("system", "Be {brief}."), ("human", "{{question}}")],
                           template_format="mustache"), 1, 1,
    ),
    "message objects": (template(SystemMessage("Be {brief}."), HumanMessage("{x}"), ASKED), 1, 2),
    "nothing static": (template(("system", "You are {who}."), ASKED), 0, 2),
    "today": (template(SYSTEM, ("system", "It is {date}."), ASKED, date=lambda: "today"), 1, 2),
}  # fmt: skip
VALUES = {"question": "Why?", "history": [HumanMessage("a"), AIMessage("b")], "who": "a sailor",
          "context": "Rain is wet."}  # fmt: skip


@pytest.mark.parametrize("what", SPLIT)
def test_the_static_part_and_the_rest_format_to_the_whole(what: str) -> None:
    whole, n_static, n_rest = SPLIT[what]
    values = {name: VALUES[name] for name in whole.input_variables}
    static, rest = split_prompt(whole)
    assert (len(static), len(rest.messages)) == (n_static, n_rest)
    assert static + rest.format_messages(**values) == whole.format_messages(**values)
    assert sorted(rest.input_variables) == sorted(whole.input_variables)
    if what == "optional history":
        assert len(rest.invoke({**values, "history": VALUES["history"]}).to_messages()) == 3


@pytest.mark.parametrize("what", [what for what, (_, n_static, _) in SPLIT.items() if n_static])
def test_the_static_part_becomes_the_preset(what: str) -> None:
    whole = SPLIT[what][0]
    static, _ = split_prompt(whole)
    assert preset_from_prompt(whole, "mine") == preset_from_prompt(static, "mine")


def test_variables_are_filled_in_and_braces_unescaped() -> None:
    assert teacher(preset_from_prompt(SPLIT["partial"][0], "mine")) == ("You are a sailor.", [])
    assert teacher(preset_from_prompt(SPLIT["few shots"][0], "mine")) == (
        "You are a sailor. Write {} for nothing.", [("2+2", "4"), ("2+3", "5")]
    )  # fmt: skip


CALLED: ToolCall = {"name": "f", "args": {}, "id": "1", "type": "tool_call"}


class Selector(BaseExampleSelector):
    """Chooses examples by the question."""

    def add_example(self, example: dict[str, str]) -> None: ...

    def select_examples(self, input_variables: dict[str, str]) -> list[dict[str, str]]:
        return SELECTED[: len(input_variables)]


def dated() -> ChatPromptTemplate:
    text = PromptTemplate.from_template("It is {date}.", partial_variables={"date": lambda: "now"})
    return template(SystemMessagePromptTemplate(prompt=text), ASKED)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "variable": (
        lambda: template(("system", "You are {who}."), ASKED),
        r"message 0 holds the variable `who`; give it .* `template.partial\(who=...\)`",
    ),
    "only a question": (lambda: template(ASKED), "message 0 holds the variable `question`"),
    "answer with a variable": (
        lambda: template(("human", "Hi"), ("ai", "{answer}"), ASKED),
        "message 1 holds the variable `answer`",
    ),
    "a value read anew": (
        lambda: template(("system", "It is {date}."), ASKED, date=lambda: "now"),
        "message 0 holds the variable `date`",
    ),
    "a value read anew inside": (dated, "message 0 holds the variable `date`"),
    "chosen examples": (
        lambda: template(
            FewShotChatMessagePromptTemplate(
                example_selector=Selector(), example_prompt=ONE_EXAMPLE, input_variables=[]
            ),
            ASKED,
        ),
        "message 0 holds the variable `examples`",
    ),
    "history": (lambda: template(MessagesPlaceholder("history")), "the variable `history`"),
    "fixed question": (lambda: template(("human", "Hi")), "has nothing before its question"),
    "empty template": (lambda: ChatPromptTemplate([]), "has nothing before its question"),
    "unanswered": (lambda: [HumanMessage("Hi")], "ends with a question that has no answer"),
    "no messages": (list, "the prompt is empty; give it an instruction"),
    "empty text": (str, "message 0 is empty"),
    "tool": (
        lambda: [HumanMessage("Hi"), ToolMessage("7", tool_call_id="1")],
        "message 1 has the role `tool`",
    ),
    "call": (
        lambda: [HumanMessage("Hi"), AIMessage("", tool_calls=[CALLED])],
        "message 1 .*tool",
    ),
    "image": (
        lambda: [HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])],
        "message 0 holds a block of type 'image_url'",
    ),
    "string template": (lambda: PromptTemplate.from_template("{x}"), "is a PromptTemplate that"),
    "number": (lambda: 7, "the prompt is a int that holds no messages"),
    "numbers": (lambda: [7], "the prompt is a list that holds no messages"),
    "bytes": (lambda: b"Be brief.", "the prompt is a bytes that"),
    "model": (lambda: FakeListChatModel(responses=[]), "is a FakeListChatModel that"),
    "function": (lambda: trim_messages(max_tokens=9, token_counter=len), "that holds no messages"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_static_text_is_refused(what: str) -> None:
    make, said = REFUSED[what]
    with pytest.raises(PresetError, match=said) as refusal:
        preset_from_prompt(make(), "mine")
    assert isinstance(refusal.value, ModelInvalidRequestError)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("Mine", {}, "`name` is 'Mine', but a name is"),
        ("mine", {"licence": "MIT"}, "did you mean `license`"),
        ("mine", {"teacher": {"system": "x"}}, "`teacher` is given, but the prompt is the teacher"),
        ("mine", {"contrast": {}}, "`contrast` is given"),
        ("mine", {"source": "x"}, "`source` is not a key"),
        ("mine", {"fit": {"method": "actadd"}}, "`actadd` needs a `contrast`"),
    ],
)
def test_a_wrong_field_is_refused(name: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PresetError, match=said):
        preset_from_prompt("Be brief.", name, **fields)


def test_a_chain_s_prompt_is_saved_and_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    preset = preset_from_prompt(SPLIT["chain"][0], "mine")
    save_preset(preset)
    assert load_preset("mine") == preset


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The session of a chat model, with folders of its own."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "presets"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    forget_sessions()
    yield session_for("smollm2", Loading(n_ctx=512, n_threads=1))
    forget_sessions()


def plant(session: Session, preset: Preset) -> None:
    """Put random steering in the place of the preset's, so that nothing waits for a fit."""
    model, key = session.model, store_key(preset, session.engine)
    z = np.random.default_rng(0).normal(0, 3, model.n_embd).astype(np.float32)
    steering = Steering(preset.name, model.n_embd, model.n_layer, {12: Delta.constant(z)})
    identity = Identity(
        preset.name, preset.version, preset.digest, key.model, model.architecture,
        key.chat_template, key.method, 0, "0",
    )  # fmt: skip
    session.store.publish(key, steering, identity)


def test_the_rest_of_a_chain_runs_with_the_preset_in_place_of_its_prompt(session: Session) -> None:
    whole = SPLIT["chain"][0]
    preset = preset_from_prompt(whole, "mine", version="2.0.0", strength={"default": 1.5})
    plant(session, preset)

    settings = Settings(Sampling(temperature=0), max_tokens=4)
    direct = session.chat([{"role": "user", "content": "Why?"}], preset, settings)
    (said,) = direct.receipt.steering
    assert (said.name, said.version, said.strength, said.layers) == ("mine", "2.0.0", 1.5, (12,))
    assert direct.receipt.tokens_steered > 0

    save_preset(preset)
    model = ChatSteerplug(n_ctx=512, n_threads=1, temperature=0, max_tokens=4)
    _, rest = split_prompt(whole)
    steered = (rest | model.with_steering("mine")).invoke({"question": "Why?"})
    prompted = (whole | model).invoke({"question": "Why?"})
    assert steered.text == direct.text
    assert steered.response_metadata["steering"]["digest"] == direct.receipt.digest
    assert prompted.response_metadata["steering"]["steering"] == []
    assert steered.usage_metadata is not None
    assert prompted.usage_metadata is not None
    assert steered.usage_metadata["input_tokens"] < prompted.usage_metadata["input_tokens"]
