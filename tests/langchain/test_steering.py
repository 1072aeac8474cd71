"""Steering reaches the model by every LangChain route, and the LLM cache never mixes it up."""

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
)

from steerplug import ChatSteerplug, errors
from steerplug.engine.loading import Loading
from steerplug.langchain import fingerprint
from steerplug.session.shared import session_for
from tests.helpers.presets import SAD_PRESET

QUESTION = "What is rain?"
N_CTX = 512

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def sad_yaml(folder: Path) -> Iterator[Path]:
    """The file of `sad`, for a test to edit."""
    path = folder / "sad.yaml"
    yield path
    path.write_text(SAD_PRESET)


def chat(**fields: Any) -> ChatSteerplug:
    """A chat model that always answers alike, in 6 tokens."""
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "n_ctx": N_CTX, "n_threads": 1}
    return ChatSteerplug(**settings | fields)


@pytest.fixture(scope="module")
def texts(folder: Path) -> dict[str, str]:
    """What the session itself answers with each mix: all different."""
    assert folder.is_dir()
    session, settings = session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1)), chat().settings()
    ask = [{"role": "user", "content": QUESTION}]
    answers = {mix: session.chat(ask, mix, settings).text for mix in ("none", "sad", "-1*sad")}
    assert len(set(answers.values())) == 3
    return answers


@pytest.fixture
def expect(texts: dict[str, str]) -> Callable[[Any, str], None]:
    """Check a reply against a mix by its receipt and by what it says."""

    def check(reply: Any, mix: str) -> None:
        strengths = {"none": [], "sad": [1.0], "-1*sad": [-1.0]}[mix]
        receipt = reply.response_metadata["steering"]
        assert [said["strength"] for said in receipt["steering"]] == strengths
        assert [said["name"] for said in receipt["steering"]] == ["sad"] * len(strengths)
        assert (receipt["tokens_steered"] > 0) == bool(strengths)
        assert reply.text == texts[mix]

    return check


def configured(mix: str | None) -> RunnableConfig:
    return {"configurable": {"steering": mix}}


def whole(chunks: Any) -> Any:
    first, *others = chunks
    for chunk in others:
        first = first + chunk
    return first


def down(_: Any) -> Any:
    raise RuntimeError("the first model is down")


BROKEN: Runnable[Any, Any] = RunnableLambda(down)


def failing_once(model: ChatSteerplug) -> Runnable[Any, Any]:
    """The model behind a step that fails the first time."""
    asked: list[Any] = []

    def ask(question: Any) -> Any:
        asked.append(question)
        if len(asked) == 1:
            raise RuntimeError("busy")
        return model.invoke(question)

    return RunnableLambda(ask).with_retry(wait_exponential_jitter=False)


NESTED: Runnable[Any, Any] = RunnableLambda(lambda question: chat().invoke(question))
PROMPT = ChatPromptTemplate.from_messages([("human", "{question}")])
ASKED = {"question": QUESTION}
SAD = configured("sad")

ROUTES: dict[str, Callable[[], Any]] = {
    "field": lambda: chat(steering="sad").invoke(QUESTION),
    "field, stream": lambda: whole(chat(steering="sad").stream(QUESTION)),
    "with_steering": lambda: chat().with_steering("sad").invoke(QUESTION),
    "changed field": lambda: chat().model_copy(update={"steering": "sad"}).invoke(QUESTION),
    "argument": lambda: chat().invoke(QUESTION, steering="sad"),
    "argument, stream": lambda: whole(chat().stream(QUESTION, steering="sad")),
    "argument, generate": lambda: chat().generate_prompt(
        [PROMPT.invoke(ASKED)], steering="sad"
    ).generations[0][0].message,  # type: ignore[union-attr]
    "bind": lambda: chat().bind(steering="sad").invoke(QUESTION),
    "bind, stream": lambda: whole(chat().bind(steering="sad").stream(QUESTION)),
    "config": lambda: chat().invoke(QUESTION, SAD),
    "config, stream": lambda: whole(chat().stream(QUESTION, SAD)),
    "config, streaming field": lambda: chat(streaming=True).invoke(QUESTION, SAD),
    "config, not streaming": lambda: whole(chat(disable_streaming=True).stream(QUESTION, SAD)),
    "batch": lambda: chat().batch([QUESTION, QUESTION], [configured("none"), SAD])[1],
    "with_config": lambda: chat().with_config(configurable={"steering": "sad"}).invoke(QUESTION),
    "with_config, stream": lambda: whole(
        chat().with_config(configurable={"steering": "sad"}).stream(QUESTION)
    ),
    "bind, with_config": lambda: chat().bind(stop=["x"]).with_config(SAD).invoke(QUESTION),
    "chain": lambda: (PROMPT | chat()).invoke(ASKED, SAD),
    "chain, stream": lambda: whole((PROMPT | chat()).stream(ASKED, SAD)),
    "chain, batch": lambda: (PROMPT | chat()).batch([ASKED], SAD)[0],
    "nested function": lambda: NESTED.invoke(QUESTION, SAD),
    "fallback": lambda: BROKEN.with_fallbacks([chat()]).invoke(QUESTION, SAD),
    "retry": lambda: chat().with_retry().invoke(QUESTION, SAD),
    "batch as completed": lambda: dict(
        chat().batch_as_completed([QUESTION, QUESTION], [configured("none"), SAD])
    )[1],
    "parallel": lambda: RunnableParallel(
        a=chat(), b=chat().bind(steering="none")
    ).invoke(QUESTION, SAD)["a"],
    "bind, with_listeners": lambda: chat().bind(steering="sad").with_listeners(
        on_end=lambda _: None
    ).invoke(QUESTION),
    "configurable fields": lambda: chat(max_tokens=3).configurable_fields(
        max_tokens=ConfigurableField(id="most")
    ).invoke(QUESTION, {"configurable": {"most": 6, "steering": "sad"}}),
    "configurable alternatives": lambda: chat(model="nowhere").configurable_alternatives(
        ConfigurableField(id="model"), other=chat()
    ).invoke(QUESTION, {"configurable": {"model": "other", "steering": "sad"}}),
    "retried function": lambda: failing_once(chat()).invoke(QUESTION, SAD),
}


@pytest.mark.parametrize("route", ROUTES)
def test_steering_arrives_by(route: str, expect: Callable[[Any, str], None]) -> None:
    expect(ROUTES[route](), "sad")


async def events_v2(runnable: Runnable[Any, Any], asked: Any, config: Any = SAD) -> Any:
    events: list[Any] = [e async for e in runnable.astream_events(asked, config, version="v2")]
    return events[-1]["data"]["output"]


ASYNC_ROUTES: dict[str, Callable[[], Awaitable[Any]]] = {
    "field": lambda: chat(steering="sad").ainvoke(QUESTION),
    "argument": lambda: chat().ainvoke(QUESTION, steering="sad"),
    "config": lambda: chat().ainvoke(QUESTION, SAD),
    "with_config": lambda: chat().with_config(SAD).ainvoke(QUESTION),
    "chain": lambda: (PROMPT | chat()).ainvoke(ASKED, SAD),
    "fallback": lambda: BROKEN.with_fallbacks([chat()]).ainvoke(QUESTION, SAD),
    "retry": lambda: chat().with_retry().ainvoke(QUESTION, SAD),
    "events v2": lambda: events_v2(chat(), QUESTION),
    "events v2 of a chain": lambda: events_v2(PROMPT | chat(), ASKED),
}


@pytest.mark.parametrize("route", ASYNC_ROUTES)
async def test_steering_arrives_without_blocking_by(
    route: str, expect: Callable[[Any, str], None]
) -> None:
    expect(await ASYNC_ROUTES[route](), "sad")


async def test_steering_arrives_by_other_async_streams(expect: Callable[[Any, str], None]) -> None:
    for asked in (
        chat().astream(QUESTION, SAD),
        chat().bind(steering="sad").astream(QUESTION),
        (PROMPT | chat()).astream(ASKED, SAD),
    ):
        expect(whole([chunk async for chunk in asked]), "sad")

    async def ask(question: str) -> AIMessage:
        return await chat().ainvoke(question)

    expect(await RunnableLambda(ask).ainvoke(QUESTION, SAD), "sad")
    bare, sad = await chat().abatch([QUESTION] * 2, [configured(None), SAD])
    expect(bare, "none")
    expect(sad, "sad")


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_steering_arrives_by_v3_events(expect: Callable[[Any, str], None]) -> None:
    expect(chat().stream_events(QUESTION, SAD, version="v3").output, "sad")
    bound = chat().bind(stop=["never"])
    expect(bound.stream_events(QUESTION, SAD, version="v3").output, "sad")
    for asked in (bound, chat()):
        stream = await asked.astream_events(QUESTION, SAD, version="v3")
        expect(await stream.output, "sad")
    for kept in (chat().bind(steering="sad"), chat().with_config(SAD)):
        expect(kept.stream_events(QUESTION, version="v3").output, "sad")
        expect(await events_v2(kept, QUESTION, None), "sad")


def test_the_argument_beats_the_config_which_beats_the_field(
    expect: Callable[[Any, str], None],
) -> None:
    model = chat(steering="-1*sad")
    expect(model.invoke(QUESTION), "-1*sad")
    expect(model.invoke(QUESTION, SAD), "sad")
    expect(model.invoke(QUESTION, SAD, steering="none"), "none")
    expect(model.invoke(QUESTION, SAD, steering=None), "sad")
    expect(model.bind(steering="sad").invoke(QUESTION, configured("none")), "sad")
    expect(model.with_steering("sad").invoke(QUESTION), "sad")


def test_none_as_a_word_turns_steering_off_and_as_a_value_says_nothing(
    expect: Callable[[Any, str], None],
) -> None:
    model = chat(steering="sad")
    expect(model.invoke(QUESTION, configured("none")), "none")
    expect(model.invoke(QUESTION, steering="none"), "none")
    expect(model.with_steering("none").invoke(QUESTION), "none")
    expect(model.with_steering(None).invoke(QUESTION), "none")
    expect(model.invoke(QUESTION, configured(None)), "sad")
    expect(model.invoke(QUESTION, steering=None), "sad")


def test_with_steering_leaves_the_model_as_it_was(expect: Callable[[Any, str], None]) -> None:
    model = chat(steering="-1*sad")
    traced = model._serialized["repr"]
    other = model.with_steering("sad")
    assert isinstance(other, ChatSteerplug)
    assert (model.steering, other.steering) == ("-1*sad", "sad")
    assert "steering='-1*sad'" in traced
    assert "steering='sad'" in other._serialized["repr"]
    expect(model.invoke(QUESTION), "-1*sad")
    with pytest.raises(errors.PresetError):
        model.with_steering("sad sad")


def test_a_config_of_a_preset_that_is_not_there_is_refused() -> None:
    with pytest.raises(errors.PresetNotFound, match="did you mean `sad`"):
        chat().invoke(QUESTION, configured("sadd"))
    assert chat(steering="nowhere").invoke(QUESTION, configured("none")).text


def test_the_config_schema_shows_the_steering_once_for_a_chain_of_two_models() -> None:
    chain = chat(steering="sad") | (lambda reply: reply.text) | chat(steering="none")
    schema = chain.config_schema().model_json_schema()
    said = schema["$defs"]["Configurable"]["properties"]["steering"]
    assert {"sad", "pirate", "none"} <= set(said["examples"])
    assert "pirate, sad" in said["description"]


# LangChain's cache of replies


class CountingCache(InMemoryCache):
    """A cache that knows how often it helped."""

    hits = 0

    def lookup(self, prompt: str, llm_string: str) -> Any:
        found = super().lookup(prompt, llm_string)
        self.hits += found is not None
        return found


def test_no_reply_is_shared_between_strengths_by_any_route(
    expect: Callable[[Any, str], None],
) -> None:
    cache = CountingCache()
    model = chat(cache=cache)
    changed = chat(cache=cache, steering="sad")
    changed.steering = "-1*sad"
    expect(chat(cache=cache, steering="sad").invoke(QUESTION), "sad")
    expect(changed.invoke(QUESTION), "-1*sad")
    expect(model.invoke(QUESTION), "none")
    assert cache.hits == 0
    for mix in ("sad", "-1*sad", "none"):
        expect(model.invoke(QUESTION, steering=mix), mix)
        expect(model.invoke(QUESTION, configured(mix)), mix)
        expect(model.bind(steering=mix).invoke(QUESTION), mix)
        expect(model.with_steering(mix).invoke(QUESTION), mix)
        expect((PROMPT | model).invoke(ASKED, configured(mix)), mix)
    assert cache.hits == 15
    assert len(cache._cache) == 3


async def test_the_cache_serves_async_calls_alike(expect: Callable[[Any, str], None]) -> None:
    cache = CountingCache()
    model = chat(cache=cache)
    expect(model.invoke(QUESTION, steering="sad"), "sad")
    expect(await model.ainvoke(QUESTION), "none")
    assert cache.hits == 0
    expect(await model.ainvoke(QUESTION, configured("1*sad")), "sad")
    assert cache.hits == 1


def test_an_edited_strength_makes_a_new_reply(
    sad_yaml: Path, expect: Callable[[Any, str], None]
) -> None:
    cache = CountingCache()
    model = chat(cache=cache, steering="sad")
    expect(model.invoke(QUESTION), "sad")
    sad_yaml.write_text(SAD_PRESET + "strength: {default: -1.0, min: -1.0}\n")
    expect(model.invoke(QUESTION), "-1*sad")
    sad_yaml.write_text(SAD_PRESET)
    expect(model.invoke(QUESTION), "sad")
    assert cache.hits == 1


def key(model: ChatSteerplug, **said: Any) -> str:
    return model._get_llm_string(**said)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("crying", "weeping"),
        ("[14]", "[15]"),
        ("coefficient: 1.0", "coefficient: 1.5"),
        ("name: sad", "name: sad\nversion: 1.0.1"),
        ("name: sad", "name: sad\nscope: all"),
    ],
)
def test_an_edited_preset_has_another_key(sad_yaml: Path, old: str, new: str) -> None:
    model = chat(steering="sad")
    before, params = key(model), model._identifying_params
    sad_yaml.write_text(SAD_PRESET.replace(old, new))
    assert key(model) != before
    assert model._identifying_params != params
    sad_yaml.write_text(SAD_PRESET + "# a comment\n")
    assert key(model) == before
    assert model._identifying_params == params


def test_another_preset_of_equal_content_has_another_key(folder: Path) -> None:
    path = folder / "gloomy.yaml"
    path.write_text(SAD_PRESET.replace("name: sad", "name: gloomy"))
    assert key(chat(steering="sad")) != key(chat(steering="gloomy"))
    path.unlink()


def test_a_steering_file_is_known_by_its_content(tmp_path: Path) -> None:
    session = session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1))
    session.chat([{"role": "user", "content": "Hi"}], "sad", chat(max_tokens=1).settings())
    path = tmp_path / "built.gguf"
    shutil.copy(next(session.store.folder.rglob("sad-*.gguf")), path)
    model = chat(steering=f"0.5*{path}")
    assert model.invoke(QUESTION).response_metadata["steering"]["steering"][0]["strength"] == 0.5
    before = key(model)
    others = [key(chat(steering=f"{strength}*{path}")) for strength in ("0.6", "-0.5")]
    assert len({before, *others}) == 3
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert key(model) != before


def test_equal_calls_have_equal_keys_however_they_are_said(folder: Path) -> None:
    path = session_for("smollm2", Loading(n_ctx=N_CTX, n_threads=1)).model.path
    equal = [
        key(chat(steering="sad", seed=1)),
        key(chat(steering="sad"), seed=1),
        key(chat(), steering="1.0*sad", seed=1),
        key(chat(steering="-1*sad"), steering=f"{folder / 'sad.yaml'}", seed=1),
        key(chat(steering="sad", seed=1, stop=[]), timeout=9.0, stream=False),
        key(chat(steering="sad", seed=1, model=str(path))),
    ]
    assert len(set(equal)) == 1
    assert key(chat(steering="sad + 0.5*love-hate")) == key(chat(steering="0.5*love-hate + sad"))


def test_whatever_changes_a_reply_changes_the_key() -> None:
    plain = {"temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.5, "repeat_penalty": 1.5,
             "seed": 5, "max_tokens": 5, "stop": ["five"], "steering": "sad"}  # fmt: skip
    keys = [key(chat()), key(chat(n_ctx=256))]
    keys += [key(chat(**{name: value})) for name, value in plain.items()]
    assert len(set(keys)) == len(keys)
    for name, value in plain.items():
        assert key(chat(), **{name: value}) == key(chat(**{name: value}))


def test_another_model_in_place_of_the_first_has_another_key(
    tmp_path: Path, tiny_llama: Callable[..., Path]
) -> None:
    path = tmp_path / "model.gguf"
    keys, sizes = set(), set()
    for seed in (0, 1):
        os.replace(tiny_llama(seed=seed), path)
        os.utime(path, (1e9, 1e9))
        keys.add(key(chat(model=str(path))))
        sizes.add(path.stat().st_size)
    assert len(sizes) == 1
    assert len(keys) == 2


@pytest.mark.parametrize("at", [900, -1, "time"])
def test_a_large_model_is_known_by_its_head_samples_of_its_weights_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int | str
) -> None:
    monkeypatch.setattr(fingerprint, "_HEAD", 1000)
    monkeypatch.setattr(fingerprint, "_SAMPLE", 100)
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    content = bytearray(2**20)
    one.write_bytes(content)
    if isinstance(at, int):
        content[at] = 1
    other.write_bytes(content)
    os.utime(one, (1e9, 1e9))
    os.utime(other, (1e9, 2e9 if at == "time" else 1e9))
    keys = [fingerprint.fingerprint_model(str(path)) for path in (one, other, one)]
    assert keys[0] == keys[2] != keys[1]


def test_what_traces_say_of_a_call_is_what_is_done() -> None:
    model = chat(steering="sad")
    said = model._get_invocation_params(steering="-1*sad")
    assert said["steering"] == "-1*sad"
    other = chat(steering="-1*sad")._identifying_params
    assert said["steering_fingerprint"] == other["steering_fingerprint"]
    assert said["steering_fingerprint"] != model._identifying_params["steering_fingerprint"]
    assert "steering_fingerprint" not in chat(steering="nowhere")._identifying_params


def test_replies_are_messages_of_langchain(expect: Callable[[Any, str], None]) -> None:
    reply = chat(steering="sad").invoke(QUESTION)
    expect(reply, "sad")
    assert type(reply) is AIMessage
    assert AIMessage.model_validate_json(reply.model_dump_json()) == reply
