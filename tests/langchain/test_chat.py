"""The LangChain chat model on the real SmolLM2: replies, streams, threads, errors."""

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelTimeoutError,
)
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from steerplug import ChatSteerplug, Sampling, errors
from steerplug.chat.tool import ToolCall
from steerplug.engine.context import Context
from steerplug.engine.loading import Loading
from steerplug.engine.sampling import SETTINGS
from steerplug.langchain import local
from steerplug.langchain.call import Call
from steerplug.langchain.errors import as_langchain
from steerplug.langchain.messages import to_chat
from steerplug.session.shared import session_for

QUESTION = "What is rain?"
N_CTX = 512
ROUTES = ("invoke", "stream", "ainvoke", "astream")

pytestmark = pytest.mark.usefixtures("folder")


def chat(**fields: Any) -> ChatSteerplug:
    """A chat model that always answers alike, in 12 tokens."""
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "n_ctx": N_CTX, "n_threads": 1}
    return ChatSteerplug(**settings | fields)


def joined(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each decode of the model."""
    counted: list[int] = []
    decode = Context.decode

    def counting(self: Context, *args: Any, **kwargs: Any) -> Any:
        counted.append(1)
        return decode(self, *args, **kwargs)

    monkeypatch.setattr(Context, "decode", counting)
    return counted


async def settled(decodes: list[int]) -> int:
    """How many decodes there were when no more came."""
    before = -1
    while len(decodes) > before:
        before = len(decodes)
        await asyncio.sleep(0.2)
    return before


# Loading


def test_making_a_chat_model_loads_no_weights_and_no_llama() -> None:
    script = (
        "import sys, steerplug\n"
        "model = steerplug.ChatSteerplug(model='nowhere.gguf', steering='sad', temperature=0)\n"
        "model.with_steering('none').bind(stop=['x']); model.config_schema()\n"
        "assert 'steerplug.engine.model' not in sys.modules\n"
        "assert 'llama_cpp' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_equal_models_share_one_session_and_others_do_not() -> None:
    one = session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1))
    path = str(one.model.path)
    assert session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1)) is one
    assert session_for(path, Loading(n_ctx=N_CTX, n_threads=1)) is one
    assert session_for("smollm2", Loading(n_ctx=N_CTX // 2, n_threads=1)) is not one


def test_threads_that_need_a_model_at_once_load_it_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        loading = Loading(n_ctx=128, n_threads=1)
        found = list(pool.map(lambda _: session_for("smollm2", loading), range(4)))
    assert all(session is found[0] for session in found)


def test_a_replaced_model_file_is_loaded_anew(
    tmp_path: Path, tiny_llama: Callable[..., Path]
) -> None:
    path = tmp_path / "model.gguf"
    os.replace(tiny_llama(name="first"), path)
    first = session_for(str(path), Loading(n_ctx=64, n_threads=1))
    os.replace(tiny_llama(name="second"), path)
    second = session_for(str(path), Loading(n_ctx=64, n_threads=1))
    names = [one.model.metadata("general.name") for one in (first, second)]
    assert names == ["first", "second"]


# Replies


async def answered(model: ChatSteerplug, route: str, **arguments: Any) -> AIMessage:
    """The reply to the question, by any of four routes."""
    if route == "invoke":
        return model.invoke(QUESTION, **arguments)
    if route == "stream":
        return joined(list(model.stream(QUESTION, **arguments)))
    if route == "ainvoke":
        return await model.ainvoke(QUESTION, **arguments)
    return joined([chunk async for chunk in model.astream(QUESTION, **arguments)])


@pytest.mark.parametrize("route", ROUTES)
async def test_a_reply_is_spelled_by_the_session_that_made_it(
    monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    first = session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1))
    other = SimpleNamespace(model=SimpleNamespace(vocab=SimpleNamespace(piece=lambda _: b"?")))
    threads: list[threading.Thread] = []

    def session_of(*_: object) -> Any:
        """Return another session from the second call on, as if the file had been replaced."""
        threads.append(threading.current_thread())
        return first if len(threads) == 1 else other

    monkeypatch.setattr(local, "session_for", session_of)
    reply = await answered(chat(logprobs=True), route)
    spelled = "".join(token["token"] for token in reply.response_metadata["logprobs"]["content"])
    assert spelled == reply.text != ""
    assert len(threads) == 1
    on_loop = threads[0] is threading.current_thread()
    assert on_loop == (route in ("invoke", "stream"))


@pytest.mark.parametrize("steering", [None, "sad"])
async def test_invoke_stream_and_their_async_forms_agree(steering: str | None) -> None:
    model = chat(steering=steering)
    replies = [await answered(model, route) for route in ROUTES]
    session = session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1))
    expected = session.chat([{"role": "user", "content": QUESTION}], steering, model.settings())
    for reply in replies:
        assert reply.content == expected.text != ""
        assert reply.usage_metadata is not None
        assert reply.usage_metadata["output_tokens"] == 12
        assert reply.response_metadata["finish_reason"] == "length"
        assert reply.response_metadata["model_name"] == "smollm2"
        assert reply.response_metadata["model_provider"] == "steerplug"
        assert reply.response_metadata["steering"]["digest"] == expected.receipt.digest


def test_only_the_last_chunk_says_usage_and_metadata() -> None:
    *pieces, last = chat(stop=[" water never"]).stream(QUESTION)  # holds back ` water`
    assert len(pieces) > 5
    assert all(piece.text for piece in pieces)
    assert not any(piece.usage_metadata or piece.response_metadata for piece in pieces)
    assert last.content == ""
    assert last.chunk_position == "last"
    assert last.usage_metadata is not None
    assert set(last.response_metadata) == {
        "model_name", "model_provider", "finish_reason", "seed", "steering", "timings",
    }  # fmt: skip


def test_usage_counts_the_prompt_the_reply_and_what_was_cached() -> None:
    model = chat()
    messages: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage("Name a colour.")]
    model.invoke(messages)
    usage = model.invoke(messages, max_tokens=3).usage_metadata
    assert usage is not None
    n_prompt = model.get_num_tokens_from_messages(messages)
    assert usage["input_tokens"] == n_prompt
    assert usage["output_tokens"] == 3
    assert usage["total_tokens"] == n_prompt + 3
    assert usage["input_token_details"]["cache_read"] == n_prompt - 1


def test_tokens_are_counted_in_the_models_own_vocabulary() -> None:
    model = chat()
    vocab = session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1)).model.vocab
    assert model.get_token_ids(QUESTION) == vocab.tokenize(QUESTION)
    assert vocab.text(model.get_token_ids(QUESTION)) == QUESTION
    assert model.get_num_tokens(QUESTION) == len(vocab.tokenize(QUESTION))


def test_stop_ends_replies_and_streams_before_it() -> None:
    bare = chat().invoke(QUESTION).text
    word = bare.split()[4]
    before = bare[: bare.index(word)]
    replies = [
        chat(stop=[word]).invoke(QUESTION),
        chat(stop=word).invoke(QUESTION),
        chat().invoke(QUESTION, stop=[word]),
        chat(stop=["never"]).invoke(QUESTION, stop=[word]),
        chat().bind(stop=[word]).invoke(QUESTION),
        joined(list(chat().stream(QUESTION, stop=[word]))),
    ]
    for reply in replies:
        assert reply.content == before
        assert reply.response_metadata["finish_reason"] == "stop"
    assert chat(stop=[word]).invoke(QUESTION, stop=[]).text == bare


def test_sampling_arguments_reach_the_sampler_from_field_and_call() -> None:
    warm: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert chat(**warm, seed=7).invoke(QUESTION).text == chat().invoke(
        QUESTION, **warm, seed=7
    ).text
    texts = {chat(**warm).invoke(QUESTION, seed=seed).text for seed in range(3)}
    assert len(texts) == 3
    assert chat(**warm, seed=7).invoke(QUESTION, top_k=1).text == chat().invoke(QUESTION).text
    assert chat().invoke("Say a a a a a a", repeat_penalty=2.0).text != chat().invoke(
        "Say a a a a a a"
    ).text
    assert chat(seed=7).invoke(QUESTION).response_metadata["seed"] == 7


def test_the_fields_take_exactly_the_ranges_of_the_sampler() -> None:
    def taken(make: Callable[..., object], name: str, value: float) -> bool:
        try:
            make(**{name: value})
        except errors.RequestError:
            return False
        return True

    for name in SETTINGS:
        small = [-101, -2, -1, -0.001, 0, 0.05, 0.1, 1, 1.5, 10, 10.1]
        edges = [*small, 10**6, 10**6 + 1, 2**32 - 2, 2**32]
        for value in [*edges, float("nan"), float("inf"), True]:
            assert taken(ChatSteerplug, name, value) == taken(Sampling, name, value), (name, value)


def test_every_sampler_reaches_the_engine_from_field_and_call() -> None:
    plain = chat().settings().sampling
    assert ChatSteerplug().settings().sampling == Sampling()
    said: dict[str, Any] = {
        "frequency_penalty": 1.5, "presence_penalty": 2.0, "repeat_last_n": -1, "typical_p": 0.4,
        "top_n_sigma": 1.0, "xtc_probability": 0.9, "xtc_threshold": 0.02, "dry_multiplier": 3.0,
        "dry_base": 2.0, "dry_allowed_length": 1, "dry_penalty_last_n": 30, "mirostat": 2,
        "dry_sequence_breakers": ["x"], "mirostat_tau": 2.0, "mirostat_eta": 0.5,
        "dynatemp_range": 0.3, "dynatemp_exponent": 2.0,
    }  # fmt: skip
    assert set(SETTINGS) <= {*said, "temperature", "top_k", "top_p", "min_p", "repeat_penalty",
                             "seed"}  # fmt: skip
    for name, value in said.items():
        expected = replace(plain, **{name: value})
        assert expected != plain
        assert chat(**{name: value}).settings().sampling == expected
        assert Call.of(chat(), {name: value}).settings().sampling == expected
    assert chat(presence_penalty=50).invoke(QUESTION).text != chat().invoke(QUESTION).text


def test_minus_1_says_what_it_says_in_llama_cpp_in_field_and_call() -> None:
    bound = chat(seed=7, max_tokens=5, top_k=3, temperature=1.5)
    fresh: dict[str, Any] = {"seed": -1, "max_tokens": -1, "top_k": -1}
    called = Call.of(bound, fresh).settings()
    assert called == chat(**fresh, temperature=1.5).settings()
    assert (called.sampling.seed, called.max_tokens, called.sampling.top_k) == (None, None, 0)
    seeds = {bound.invoke("Hi", seed=-1).response_metadata["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_no_stop_and_no_likeliest_tokens_are_nothing_asked() -> None:
    bare = chat().invoke(QUESTION)
    for nothing in ({"stop": ""}, {"stop": [""]}, {"top_logprobs": 0}):
        reply = chat().invoke(QUESTION, **nothing)
        assert reply.text == bare.text
        assert "logprobs" not in reply.response_metadata
    assert chat(stop="").invoke(QUESTION).text == bare.text
    assert chat(top_logprobs=0, logprobs=False).invoke(QUESTION).text == bare.text


def test_a_model_can_be_said_per_call() -> None:
    path = str(session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1)).model.path)
    reply = chat(model="nowhere.gguf").invoke(QUESTION, model=path)
    assert reply.response_metadata["model_name"] == path
    assert reply.text == chat().invoke(QUESTION).text


def test_a_batch_answers_as_single_calls_do() -> None:
    questions: list[Any] = [QUESTION, "Name a colour.", "What is a cat?"]
    singles = [chat().invoke(question).text for question in questions]
    assert len(set(singles)) == 3
    assert [reply.text for reply in chat().batch(questions)] == singles


# Open replies


def test_invoking_while_a_stream_is_half_read_changes_neither() -> None:
    expected, other = chat().invoke(QUESTION).text, chat().invoke("Name a colour.").text
    stream = chat().stream(QUESTION)
    begun = [next(stream), next(stream)]
    assert chat().invoke("Name a colour.").text == other
    assert joined([*begun, *stream]).text == expected


def test_a_closed_stream_decodes_no_more(decodes: list[int]) -> None:
    stream = chat(max_tokens=100).stream(QUESTION)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 0 < len(decodes) < 5
    assert chat().invoke(QUESTION).text


class Told(AsyncCallbackHandler):
    """Remembers how runs ended before their time."""

    def __init__(self) -> None:
        self.ends: list[type[BaseException]] = []

    async def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.ends.append(type(error))


async def test_a_closed_async_stream_frees_the_model(decodes: list[int]) -> None:
    told = Told()
    stream = chat(max_tokens=300).astream(QUESTION, {"callbacks": [told]})
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert told.ends == [GeneratorExit]
    assert await settled(decodes) < 30


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_a_cancelled_call_frees_the_model(decodes: list[int], way: str) -> None:
    model = chat(max_tokens=300)

    async def streamed() -> None:
        async for _ in model.astream(QUESTION):
            pass

    task = asyncio.ensure_future(model.ainvoke(QUESTION) if way == "ainvoke" else streamed())
    while len(decodes) < 3:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await settled(decodes) < 100
    assert (await chat().ainvoke(QUESTION)).text == chat().invoke(QUESTION).text


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_the_event_loop_runs_while_a_reply_is_made(way: str) -> None:
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    await chat().ainvoke(QUESTION)
    beating = asyncio.ensure_future(heart())
    if way == "ainvoke":
        await chat().ainvoke(QUESTION)
        assert beats > 12
    else:
        seen = []
        async for _ in chat().astream(QUESTION):
            seen.append(beats)
        assert len(set(seen)) > 6
    beating.cancel()


def test_a_reply_that_takes_too_long_is_given_up(decodes: list[int]) -> None:
    with pytest.raises(ModelTimeoutError, match=r"longer than 1e-06 seconds"):
        chat(timeout=1e-6, max_tokens=300).invoke(QUESTION)
    assert len(decodes) < 10
    assert chat(timeout=1e6).invoke(QUESTION).text


# Messages


def test_messages_become_chat_messages() -> None:
    assert to_chat([
        SystemMessage("s"), HumanMessage([{"type": "text", "text": "a"}, "b"]), AIMessage("c"),
        AIMessageChunk(content="d"), ToolMessage("e", tool_call_id="1"),
        ChatMessage(role="user", content="f"), AIMessage(""), SystemMessage(""),
        AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "g"}]),
    ]) == [
        {"role": "system", "content": "s"}, {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"},
        {"role": "tool", "content": "e", "tool_call_id": "1", "name": ""},
        {"role": "user", "content": "f"},
        {"role": "assistant", "content": ""}, {"role": "system", "content": ""},
        {"role": "assistant", "content": "g", "reasoning_content": "Hm."},
    ]  # fmt: skip


def test_calls_and_their_results_become_chat_messages_by_either_form() -> None:
    calling = {"name": "add", "args": {"a": "你"}, "id": "1", "type": "tool_call"}
    block = {"type": "tool_use", "id": "1", "name": "add", "input": {"a": "你"}}
    contents: list[Any] = ["Now:", [{"type": "text", "text": "Now:"}, block], ["Now:", calling]]
    for content in contents:
        said = AIMessage(content, tool_calls=[calling])
        asked, result = to_chat([said, ToolMessage("3", tool_call_id="1", status="error")])
        assert asked == {
            "role": "assistant", "content": "Now:",
            "tool_calls": (ToolCall("1", "add", '{"a": "你"}'),),
        }  # fmt: skip
        assert result == {"role": "tool", "content": "3", "tool_call_id": "1", "name": "add"}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ([HumanMessage([{"type": "text", "text": "Look:"}, IMAGE])], "message 0 holds a block of"),
        ([HumanMessage([{"type": "reasoning", "reasoning": "Hm."}])], "block of type .reasoning"),
        ([ToolMessage([IMAGE], tool_call_id="1")], "message 0 holds a block of type 'image_url'"),
        ([RemoveMessage(id="1")], "message 0 is a RemoveMessage"),
        ([ChatMessage(role="pirate", content="Ahoy")], "message 0 has the role 'pirate'"),
        ([], "the list of messages is empty"),
    ],
)
def test_messages_that_are_no_text_chat_are_refused(
    said: list[BaseMessage], sentence: str
) -> None:
    with pytest.raises(ModelInvalidRequestError, match=sentence) as refusal:
        chat().invoke(said)
    assert isinstance(refusal.value, errors.RequestError)


# Errors


@pytest.mark.parametrize(
    ("argument", "langchain", "own", "sentence"),
    [
        ({"steering": "sadd"}, ModelNotFoundError, errors.PresetNotFound, "did you mean `sad`"),
        ({"steering": "sad +"}, ModelInvalidRequestError, errors.PresetError, "at its end"),
        ({"steering": "9*sad"}, ModelInvalidRequestError, errors.StrengthError, "beyond the range"),
        ({"steering": 3}, ModelInvalidRequestError, errors.RequestError, "steering is 3"),
        ({"model": "nowhere"}, ModelNotFoundError, errors.ModelNotFound, "no model `nowhere`"),
        ({"temperature": -1}, ModelInvalidRequestError, errors.RequestError, "temperature is -1"),
        ({"max_tokens": 0}, ModelInvalidRequestError, errors.RequestError, "max_tokens is 0"),
        ({"seed": 0.5}, ModelInvalidRequestError, errors.RequestError, "seed is 0.5"),
        ({"tool": []}, ModelInvalidRequestError, errors.RequestError, "no argument `tool`"),
        ({"temprature": 1}, ModelInvalidRequestError, errors.RequestError, "mean `temperature`"),
    ],
)
def test_a_call_that_cannot_be_served_is_refused_in_one_typed_sentence(
    argument: dict[str, Any], langchain: type[Exception], own: type[Exception], sentence: str
) -> None:
    for ask in (
        lambda: chat().invoke(QUESTION, **argument),
        lambda: list(chat().stream(QUESTION, **argument)),
        lambda: asyncio.run(chat().ainvoke(QUESTION, **argument)),
    ):
        with pytest.raises(langchain, match=sentence) as refusal:
            ask()
        assert isinstance(refusal.value, own)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ({"temperature": 11}, "temperature is 11; input should be less than or equal to 10."),
        ({"n_ctx": -1}, "n_ctx is -1"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"model": ""}, "model is ''"),
        ({"steering": "sad sad"}, "the mix `sad sad` cannot be read"),
        ({"n_ctxt": 9}, "no argument `n_ctxt`; did you mean `n_ctx`?"),
        ({"model": "a", "model_name": "b"}, "`model` is given twice"),
    ],
)
def test_a_chat_model_that_makes_no_sense_is_refused_in_one_sentence(
    field: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelInvalidRequestError) as refusal:
        ChatSteerplug(**field)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_prompt_beyond_the_context_is_an_overflow() -> None:
    with pytest.raises(ContextOverflowError, match="the context holds 512") as refusal:
        chat().invoke("rain " * 600)
    assert isinstance(refusal.value, errors.ContextOverflow)


def test_every_error_of_steerplug_has_a_langchain_name_and_survives_pickling() -> None:
    kinds = [
        kind for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SteerplugError)
    ]
    assert len(kinds) > 10
    assert isinstance(as_langchain(errors.EngineBusy("busy.")), ModelAPIError)
    for kind in kinds:
        error = as_langchain(kind("a sentence."))
        assert isinstance(error, kind)
        assert isinstance(error, ModelError)
        assert not isinstance(error, ModelAPIError) or kind.status >= 500
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), "a sentence.")


# Traces


def test_traces_say_provider_model_and_limits() -> None:
    model = chat(stop="x")
    assert model._get_ls_params() == {
        "ls_provider": "steerplug", "ls_model_type": "chat", "ls_model_name": "smollm2",
        "ls_temperature": 0, "ls_max_tokens": 12, "ls_stop": ["x"],
    }  # fmt: skip
    assert type("ChatOther", (ChatSteerplug,), {})()._get_ls_params()["ls_provider"] == "steerplug"
    said = model._get_ls_params(stop=["y"], model="other", temperature=1.0)
    assert (said["ls_model_name"], said["ls_stop"]) == ("other", ["y"])
    assert model.metadata is not None
    assert set(model.metadata["lc_versions"]) >= {"langchain-core", "steerplug"}
    assert ChatSteerplug.model_validate({"model_name": "other"}).model_name == "other"
