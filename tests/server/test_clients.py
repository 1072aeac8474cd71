"""The server as real clients see it, and presets in the `llm` tool."""

import json
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import llm
import openai
import pytest
from click.testing import CliRunner
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llm.cli import cli
from pydantic import BaseModel, SecretStr

from steerplug.engine.loading import SETTINGS as LOADING
from steerplug.engine.loading import Loading
from steerplug.engine.sampling import SETTINGS
from steerplug.engine.sizes import N_CTX
from steerplug.session.shared import session_for
from tests.helpers.serving import NAME, PIRATE, QUESTION, Client, served
from tests.helpers.thinking import scripted, template

KEY = "a-key-for-tests"
ROOT = Path(__file__).parents[2]
RAIN = "What is rain?"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(api_keys=(KEY,)) as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        yield client


@pytest.fixture
def ai(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.root}/v1", api_key=KEY, max_retries=0) as ai:
        yield ai


class Weather(BaseModel):
    wet: bool
    kind: Literal["drizzle", "storm"]


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a place.",
        "parameters": {
            "type": "object", "properties": {"place": {"enum": ["Rome", "Oslo"]}},
            "required": ["place"], "additionalProperties": False,
        },
    },
}  # fmt: skip


def ask(ai: Any, **said: Any) -> Any:
    body = {"model": PIRATE, "messages": QUESTION, "max_tokens": 16, "temperature": 0, **said}
    return ai.chat.completions.create(**body)


# The openai package


def test_openai_lists_models_and_chats(ai: openai.OpenAI) -> None:
    assert PIRATE in [model.id for model in ai.models.list()]
    answer = ask(ai)
    assert answer.choices[0].message.content
    assert answer.model_extra["steering"]["mix"] == "pirate"
    other = ask(ai, extra_body={"steering": {"formal": 1.0}})
    assert other.model_extra["steering"]["mix"] == "1.0*formal"


def test_openai_streams_what_it_gets_in_one(ai: openai.OpenAI) -> None:
    whole = ask(ai).choices[0].message.content
    stream = ask(ai, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert last.usage.completion_tokens == 16


def test_openai_parses_what_a_schema_holds_a_reply_to(ai: openai.OpenAI) -> None:
    messages: Any = QUESTION
    answer = ai.chat.completions.parse(
        model=PIRATE, messages=messages, response_format=Weather, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_openai_completes(ai: openai.OpenAI) -> None:
    answer = ai.completions.create(model=NAME, prompt="Rain is", max_tokens=8, logprobs=1)
    assert answer.choices[0].text
    assert answer.choices[0].logprobs is not None


def test_openai_calls_tools(ai: openai.OpenAI) -> None:
    said = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60}
    (call,) = ask(ai, parallel_tool_calls=False, **said).choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["place"] in ("Rome", "Oslo")
    with ai.chat.completions.stream(
        model=PIRATE, messages=[{"role": "user", "content": RAIN}], temperature=0,
        tools=[WEATHER], tool_choice="required", max_tokens=60, parallel_tool_calls=False,
    ) as stream:  # fmt: skip
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls is not None
    (same,) = streamed.message.tool_calls
    assert same.function.name == "get_weather"
    assert json.loads(same.function.arguments)["place"] in ("Rome", "Oslo")
    after: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "It rains."},
    ]
    assert ask(ai, messages=after, tools=[WEATHER]).choices[0].message.content is not None


def test_openai_raises_its_own_errors(client: Client, ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean `pirate`"):
        ask(ai, model="smollm2@pirat")
    with pytest.raises(openai.BadRequestError, match="n: "):
        ask(ai, n=99)
    with (
        openai.OpenAI(base_url=f"{client.root}/v1", api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


async def test_openai_on_an_event_loop(client: Client) -> None:
    async with openai.AsyncOpenAI(base_url=f"{client.root}/v1", api_key=KEY) as ai:
        answer = await ask(ai)
        stream = await ask(ai, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == answer.choices[0].message.content


# LangChain


@tool
def get_weather(place: str) -> str:
    """The weather in a place."""
    return f"It rains in {place}."


@pytest.fixture
def langchain(client: Client) -> ChatOpenAI:
    return ChatOpenAI(
        model=PIRATE, base_url=f"{client.root}/v1", api_key=SecretStr(KEY), temperature=0,
        max_completion_tokens=60, stream_usage=True,
    )  # fmt: skip


def test_langchain_openai_chats_streams_and_follows(langchain: ChatOpenAI) -> None:
    whole = langchain.invoke(RAIN)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(str(chunk.content) for chunk in langchain.stream(RAIN)) == whole.content
    parsed = langchain.with_structured_output(Weather).invoke("Is rain wet?")
    assert isinstance(parsed, Weather)
    other = langchain.bind(extra_body={"steering": "none"}).invoke(RAIN)
    assert other.content != whole.content


def test_langchain_openai_calls_tools(langchain: ChatOpenAI) -> None:
    bound = langchain.bind_tools([get_weather], tool_choice="get_weather")
    (call,) = bound.invoke("What is the weather in Rome?").tool_calls
    assert call["name"] == "get_weather"
    assert isinstance(call["args"]["place"], str)


# llm


@pytest.fixture
def run_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    plugin = import_module("steerplug.llm_plugin")
    load: Any = llm.plugins.load_plugins
    load()
    added = not llm.plugins.pm.is_registered(plugin)
    if added:
        llm.plugins.pm.register(plugin)

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, [*words], catch_exceptions=False)

    yield run
    if added:
        llm.plugins.pm.unregister(plugin)


def test_the_package_says_that_it_is_a_plugin_of_llm() -> None:
    said = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (module,) = said["project"]["entry-points"]["llm"].values()
    assert import_module(module).register_models


def test_llm_answers_by_preset(run_llm: Any) -> None:
    listed = run_llm("models", "list").output
    assert f"SteeredModel: {PIRATE}" in listed
    options = ["-o", "temperature", "0", "-o", "max_tokens", "16"]
    bare, steered = (run_llm("-m", model, RAIN, *options).output for model in (NAME, PIRATE))
    assert bare.strip()
    assert steered.strip()
    assert bare != steered
    chosen = run_llm("-m", PIRATE, RAIN, *options, "-o", "steering", "none").output
    assert chosen == bare


def test_llm_takes_every_setting_of_the_sampler(run_llm: Any) -> None:
    def say(*options: str) -> str:
        result = run_llm("-m", NAME, "Say rain, rain, rain.", *options)
        assert result.exit_code == 0, result.output
        return str(result.output)

    offered = llm.get_model(NAME).Options.model_fields
    assert {*SETTINGS, "dry_sequence_breakers"} <= set(offered)
    few = ["-o", "max_tokens", "6", "-o", "seed", "-1"]
    greedy = [*few, "-o", "temperature", "0"]
    assert say(*greedy, "-o", "presence_penalty", "50") != say(*greedy)
    wild = [*few, "-o", "temperature", "5", "-o", "top_k", "-1", "-o", "top_p", "1"]
    assert len({say(*wild, "-o", "min_p", "0") for _ in range(3)}) > 1
    dry = ["-o", "dry_multiplier", "1", "-o", "dry_sequence_breakers", '[","]']
    assert say(*wild, "-o", "min_p", "0", *dry)
    refused = run_llm("-m", NAME, "Hi", "-o", "typical_p", "2")
    assert refused.exit_code != 0
    assert "typical_p" in refused.output


def test_llm_takes_every_setting_of_loading(run_llm: Any) -> None:
    assert set(LOADING) <= set(llm.get_model(NAME).Options.model_fields)
    few = ["-m", NAME, "Hi", "-o", "max_tokens", "2", "-o", "n_threads", "1"]
    loaded = run_llm(*few, "-o", "n_ctx", "128", "-o", "type_k", "q8_0", "-o", "use_mmap", "off")
    assert loaded.exit_code == 0, loaded.output
    for words, sentence in (
        (("n_ctx", "-1"), "n_ctx is -1; choose 0 to"),
        (("mmproj", "a.gguf"), "`mmproj` is no setting here: images"),
    ):
        refused = run_llm(*few, "-o", *words)
        assert refused.exit_code != 0
        assert sentence in refused.output
    no_gpu = run_llm(*few, "-o", "devices", "CUDA9")
    assert "devices names CUDA9, and this build of llama.cpp finds" in no_gpu.output


def test_llm_follows_schemas_goes_on_and_says_what_is_wrong(run_llm: Any) -> None:
    options = ["-m", PIRATE, "-o", "max_tokens", "40"]
    said = run_llm(*options, RAIN, "--schema", "wet bool").output
    assert isinstance(json.loads(said)["wet"], bool)
    greedy = ["-o", "temperature", "0", "-o", "max_tokens", "40"]
    asked = run_llm("-m", NAME, "hi", *greedy, "--schema", "name, age int").output
    assert set(json.loads(asked)) == {"name", "age"}
    assert run_llm("-c", "And snow?", "-o", "max_tokens", "8").exit_code == 0
    wrong = run_llm(*options, RAIN, "-o", "steering", "pirat")
    assert wrong.exit_code != 0
    assert "did you mean `pirate`?" in wrong.output


def test_llm_says_the_answer_and_no_thought(
    run_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_for(NAME, Loading(n_ctx=N_CTX))
    monkeypatch.setattr(session, "template", template("Qwen3.5", session.model))
    script = scripted(session.model, monkeypatch)
    script("Hm, so.\n</think>\n\nBlue.<|im_end|>")
    assert run_llm("-m", NAME, RAIN).output == "Blue.\n"
    script("Blue.<|im_end|>")
    assert run_llm("-m", NAME, RAIN, "-o", "enable_thinking", "false").output == "Blue.\n"
    refused = run_llm("-m", NAME, RAIN, "-o", "reasoning_effort", "low")
    assert "reads no reasoning_effort; use enable_thinking." in refused.output
