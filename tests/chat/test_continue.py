"""A reply that goes on with the last message: one turn, whoever wrote its beginning."""

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage

from steerplug.chat.calls.answers import ways
from steerplug.chat.calls.form import TAGGED
from steerplug.chat.calls.plain import written
from steerplug.chat.calls.stream import CallStream
from steerplug.chat.template import ChatTemplate, Message
from steerplug.chat.tool import Tools
from steerplug.engine.constraint import Regex
from steerplug.engine.model import Model
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt, plan
from steerplug.errors import RequestError
from steerplug.langchain import ChatSteerplug
from steerplug.session import Session, Settings
from steerplug.steering.value import Mix
from tests.chat.test_outline import THINKS
from tests.chat.test_template import GEMMA, LLAMA_3, MISTRAL, chat
from tests.engine.test_scope import marks, steering
from tests.helpers.families import BOTH, FAMILIES, LLAMA, OSLO, template
from tests.helpers.serving import NAME, Client, served, told

ASKED = chat("Tell me something about the sea.")
GREEDY = Settings(Sampling(temperature=0), max_tokens=20)
GO_ON = replace(GREEDY, continue_final_message=True)
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["city", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def session(quick_path: Path) -> Iterator[Session]:
    session = Session(quick_path, n_ctx=512, n_threads=1)
    yield session
    session.close()


def begun(text: str) -> list[Message]:
    """The question, and the beginning of its answer."""
    return [*ASKED, {"role": "assistant", "content": text}]


# As text


@pytest.mark.parametrize("source", [*(s for s, _ in FAMILIES.values()), LLAMA_3, GEMMA, MISTRAL])
@pytest.mark.parametrize("text", ["Once upon", "Once upon ", "  Once\n\n", "Hi. Hi", "☔️ 雨"])
def test_the_prompt_ends_where_transformers_ends_it(source: str, text: str, model: Model) -> None:
    rendering = importlib.import_module("transformers.utils.chat_template_utils")
    chatty = ChatTemplate(source, model.vocab, "it")
    bos = model.vocab.piece(model.vocab.bos, True).decode()
    eos = model.vocab.piece(model.vocab.eos, True).decode()
    messages = [*chat("Hi", "Hello.", "Hi. Hi"), {"role": "assistant", "content": text}]
    (want,), _ = rendering.render_jinja_template(
        [messages], chat_template=source, continue_final_message=True,
        add_generation_prompt=False, bos_token=bos, eos_token=eos,
    )  # fmt: skip
    prompt = chatty.prompt(messages, continue_final_message=True)
    assert model.vocab.text(list(prompt.tokens), special=True) == want
    assert model.vocab.text(list(prompt.tokens[-prompt.begun :])).strip() == text.strip()
    assert len(prompt.responses) == 1


def test_a_thought_that_is_open_goes_on_where_the_model_thinks(model: Model) -> None:
    chatty = ChatTemplate(THINKS, model.vocab, "it")
    asked = chatty.render(ASKED)
    for text in ("<think>\nThe sea", "<think>The sea"):
        prompt = chatty.prompt(begun(text), continue_final_message=True)
        assert model.vocab.text(list(prompt.tokens), special=True) == asked + "The sea"
        assert model.vocab.text(list(prompt.tokens[-prompt.begun :])) == "The sea"


def test_an_empty_beginning_is_that_of_any_reply(model: Model) -> None:
    chatty = template("plain", model)
    assert chatty.prompt(begun(""), continue_final_message=True) == chatty.prompt(ASKED)


@pytest.mark.parametrize(
    ("source", "messages", "said"),
    [
        (None, ASKED, "goes on with an assistant's message, and the last, message 0, is of the ro"),
        (None, [*ASKED, {"role": "assistant", "content": "", "tool_calls": (OSLO,)}],
         "message 1, which the reply is to go on with, calls tools"),
        ("{{ messages[0].content }}", begun("Well"), "drops message 1, of the role 'assistant'"),
    ],
)  # fmt: skip
def test_what_no_reply_can_go_on_with_is_refused(
    source: str | None, messages: list[Message], said: str, model: Model
) -> None:
    chatty = ChatTemplate(source or LLAMA, model.vocab, "it")
    with pytest.raises(RequestError, match=said):
        chatty.prompt(messages, continue_final_message=True)


def test_a_reply_that_has_begun_is_steered_from_its_boundary_token() -> None:
    laid = plan(Mix.of(steering("response")), Prompt(tuple(range(9)), ((1, 3),), True, 3))
    assert marks(laid) == ".ss..ssss" + "s"


# As a reply


@pytest.mark.parametrize("steering", ["none", "weddings"])
def test_half_a_reply_goes_on_as_it_did_with_the_same_cells(
    session: Session, steering: str
) -> None:
    whole = session.chat(ASKED, steering, GREEDY)
    words = whole.text.split(" ")
    half = " ".join(words[: len(words) // 2])
    rest = session.chat(begun(half), steering, GO_ON)
    assert (half + rest.text).startswith(whole.text)
    assert rest.usage.cached_tokens == rest.usage.prompt_tokens - 1
    n_half = rest.usage.prompt_tokens - whole.usage.prompt_tokens
    if steering != "none":
        n_generated = whole.usage.completion_tokens
        assert whole.receipt.tokens_steered == n_generated + (whole.finish_reason == "stop")
        assert rest.receipt.tokens_steered - n_half == rest.usage.completion_tokens + (
            rest.finish_reason == "stop"
        )


def test_json_that_was_begun_is_completed(session: Session) -> None:
    for text in ('{"city": "Os', '{"city": "Oslo",', "{"):
        reply = session.chat(begun(text), None, replace(GO_ON, format=CITY, max_tokens=24))
        assert set(json.loads(text + reply.text)) == {"city", "n"}


def test_a_pattern_that_was_begun_is_completed(session: Session) -> None:
    pattern = replace(GO_ON, format=Regex("[a-c]{4}-[0-9]{3}"), max_tokens=8)
    reply = session.chat(begun("ab"), None, pattern)
    assert re.fullmatch("[a-c]{4}-[0-9]{3}", "ab" + reply.text)


def test_a_beginning_that_no_reply_of_the_format_has_is_refused(session: Session) -> None:
    with pytest.raises(RequestError, match=r"'Well, ' begins no reply in the format asked for"):
        session.chat(begun("Well, "), None, replace(GO_ON, format=CITY))
    with pytest.raises(RequestError, match="begins no reply in the format asked for"):
        session.chat(begun("Well, "), None, replace(GO_ON, tools=Tools(BOTH, "required")))


def test_a_beginning_in_the_midst_of_a_call_is_refused(session: Session) -> None:
    said = '<tool_call>\n{"name": "now", '
    with pytest.raises(RequestError, match=r"midst of a call, with which no reply goes on; leave"):
        session.chat(begun(said), None, replace(GO_ON, tools=Tools(BOTH)))


def test_half_a_mark_at_the_end_of_the_beginning_becomes_a_call_or_stays_text() -> None:
    whole = written([OSLO], TAGGED)
    for said, more in (("See. <tool", whole[5:]), ("A <", " B"), ("<tool", "_x")):
        stream = CallStream(ways(TAGGED, Tools()), begun=said)
        parts = list(stream.feed(more, whole.startswith("<tool" + more)))
        text = "".join(part for part in parts if isinstance(part, str)) + stream.finish()
        is_call = said == "See. <tool"
        assert text == ("" if is_call else more)
        assert [call.name for call in stream.calls] == [OSLO.name] * is_call


def test_a_call_may_follow_half_its_mark(session: Session) -> None:
    tools = replace(GO_ON, tools=Tools(BOTH, "required"), max_tokens=60)
    reply = session.chat(begun("<tool"), "weddings", tools)
    assert reply.text == ""
    assert reply.tool_calls


def test_a_constrained_beginning_is_left_unsteered_with_the_rest(session: Session) -> None:
    unsteered = replace(GO_ON, format=CITY, unsteered=frozenset({"constrained"}))
    assert session.chat(begun('{"city"'), "weddings", unsteered).receipt.tokens_steered == 0


def test_plain_text_is_no_chat_to_go_on_with(session: Session) -> None:
    with pytest.raises(RequestError, match="continue_final_message is for chats"):
        session.complete("Well", None, GO_ON)


# Doors


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


HALF = begun("The sea is a vast and")
SHORT = {"max_tokens": 6, "temperature": 0}


def said_by(client: Client, messages: list[Any], **fields: Any) -> str:
    answer = client.chat(messages=messages, **{**SHORT, **fields}).json()
    return str(answer["choices"][0]["message"]["content"])


def last_with(**fields: Any) -> list[Message]:
    return [*HALF[:-1], {**HALF[-1], **fields}]


def test_the_server_goes_on_in_every_way_that_clients_say_it(
    client: Client, session: Session
) -> None:
    want = session.chat(HALF, None, replace(GO_ON, max_tokens=6)).text
    assert want.startswith(" ")
    for messages, fields in (
        (HALF, {"continue_final_message": True, "add_generation_prompt": False}),
        (HALF, {"continue_final_message": True}),
        (last_with(prefix=True), {}),
        (last_with(partial=True), {}),
        (HALF, {}),  # what SillyTavern's Continue sends
    ):
        assert said_by(client, messages, **fields) == want
    other = session.chat(HALF, None, replace(GREEDY, max_tokens=6)).text
    for fields in ({"add_generation_prompt": True}, {"continue_final_message": False}):
        assert said_by(client, HALF, **fields) == other != want


def test_openai_s_client_goes_on(client: Client, session: Session) -> None:
    api = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="x", max_retries=0)
    messages: Any = HALF
    stream = api.chat.completions.create(
        model=NAME, messages=messages, stream=True, max_tokens=6, temperature=0,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == session.chat(HALF, None, replace(GO_ON, max_tokens=6)).text


def test_a_format_is_a_reply_of_its_own_unless_going_on_is_asked_for(client: Client) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": CITY}}
    whole = said_by(client, HALF, response_format=form, max_tokens=30)
    assert whole.startswith('{"city')
    rest = said_by(
        client, begun('{"city": "Oslo"'), response_format=form, continue_final_message=True,
        max_tokens=30,
    )
    assert rest.startswith(', "n"')


@pytest.mark.parametrize(
    ("messages", "fields", "said"),
    [
        (HALF, {"continue_final_message": True, "add_generation_prompt": True}, "set only one"),
        (last_with(prefix=True), {"continue_final_message": False}, "says that it is a prefix"),
        (last_with(prefix=True), {"add_generation_prompt": True}, "set only one"),
        ([*last_with(prefix=True), *ASKED], {}, "message 1 says that it is a prefix, which only"),
        ([{**ASKED[0], "partial": True}], {}, "message 0 says that it is a prefix"),
        (ASKED, {"add_generation_prompt": False}, "there is no message to go on with"),
        (ASKED, {"continue_final_message": True}, "goes on with an assistant's message"),
        (ASKED, {"chat_template_kwargs": {"messages": []}}, "'messages' is set by the chat"),
        (ASKED, {"chat_template_kwargs": {"x": "y" * 70_000}}, "chat_template_kwargs has 70"),
        (ASKED, {"chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ],
)
def test_what_does_not_go_together_is_refused(
    client: Client, messages: list[Any], fields: dict[str, Any], said: str
) -> None:
    response = client.chat(messages=messages, **fields)
    assert response.status_code == 400
    assert said in told(response)


def test_langchain_goes_on_where_call_or_message_say_so(session: Session) -> None:
    model = ChatSteerplug(model="smollm2", n_ctx=512, n_threads=1, temperature=0, max_tokens=6)
    want = session.chat(HALF, None, replace(GO_ON, max_tokens=6)).text
    question, text = HumanMessage(ASKED[0]["content"]), HALF[-1]["content"]
    marked = AIMessage(text, additional_kwargs={"prefix": True})
    assert model.invoke([question, AIMessage(text)], continue_final_message=True).content == want
    assert model.invoke([question, marked]).content == want
    assert "".join(str(chunk.content) for chunk in model.stream([question, marked])) == want
    assert model.invoke([question, AIMessage(text)]).content != want
    assert model.invoke([question, marked, AIMessage(want), question])
    with pytest.raises(RequestError, match="says that it is a prefix; set only one of them"):
        model.invoke([question, marked], continue_final_message=False)


def test_what_the_template_is_told_is_part_of_langchain_s_cache_key() -> None:
    said: dict[str, Any] = {"model": "smollm2", "n_ctx": 512, "n_threads": 1, "max_tokens": 2}
    keys = {
        ChatSteerplug(**said, **fields)._get_llm_string()
        for fields in ({}, {"chat_template_kwargs": {"mood": "glad"}}, {"parse_special": True})
    }
    model = ChatSteerplug(**said, cache=InMemoryCache())
    keys |= {model._get_llm_string(continue_final_message=True),
             model._get_llm_string(chat_template_kwargs={"mood": "sad"})}  # fmt: skip
    assert len(keys) == 5
    with pytest.raises(RequestError, match="chat_template_kwargs holds what is no JSON"):
        ChatSteerplug(**said, chat_template_kwargs={"x": object()})


def test_what_the_template_is_told_reaches_it_from_every_door(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    render = ChatTemplate.prompt

    def noted(self: ChatTemplate, *args: Any, **kwargs: Any) -> Prompt:
        asked.append((kwargs["variables"], kwargs["parse_special"]))
        return render(self, *args, **kwargs)

    monkeypatch.setattr(ChatTemplate, "prompt", noted)
    client.chat(messages=ASKED, chat_template_kwargs={"enable_thinking": False})
    model = ChatSteerplug(model="smollm2", n_ctx=512, n_threads=1, max_tokens=1)
    model.invoke("Hi", chat_template_kwargs={"enable_thinking": False}, parse_special=True)
    assert asked == [({"enable_thinking": False}, False), ({"enable_thinking": False}, True)]
