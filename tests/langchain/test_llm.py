"""The completion model on the real SmolLM2: same engine, steering and cache rules as the chat."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ModelInvalidRequestError, ModelNotFoundError
from langchain_core.messages import HumanMessage
from langchain_core.prompts import PromptTemplate

from steerplug.engine.loading import Loading
from steerplug.langchain import ChatSteerplug, SteerplugLLM
from steerplug.session.shared import session_for

TEXT = "Once upon a time"
SAD: Any = {"configurable": {"steering": "sad"}}
FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "n_ctx": 512, "n_threads": 1}

pytestmark = pytest.mark.usefixtures("folder")


def llm(**fields: Any) -> SteerplugLLM:
    return SteerplugLLM(**FIELDS | fields)


@pytest.fixture(scope="module")
def texts(folder: Path) -> dict[str, str]:
    """What the session itself writes with each mix."""
    assert folder.is_dir()
    session, settings = session_for("smollm2", Loading(n_ctx=512, n_threads=1)), llm().settings()
    said = {mix: session.complete(TEXT, mix, settings).text for mix in ("none", "sad", "-1*sad")}
    assert len(set(said.values())) == 3
    return said


def test_every_route_writes_what_the_session_does(texts: dict[str, str]) -> None:
    sad = texts["sad"]
    chain = PromptTemplate.from_template("{text}") | llm()
    assert llm().invoke(TEXT) == texts["none"]
    assert llm(steering="sad").invoke(TEXT) == sad
    assert llm().with_steering("sad").invoke(TEXT) == sad
    assert llm().invoke(TEXT, steering="sad") == sad
    assert llm(steering="-1*sad").invoke(TEXT, SAD) == sad
    assert llm().bind(steering="sad").invoke(TEXT) == sad
    assert llm().with_config(SAD).invoke(TEXT) == sad
    assert chain.invoke({"text": TEXT}, SAD) == sad
    assert "".join(llm().stream(TEXT, SAD)) == sad
    assert "".join(chain.stream({"text": TEXT}, SAD)) == sad
    assert llm().batch([TEXT, TEXT, TEXT], [{}, SAD, {"configurable": {"steering": "-1*sad"}}]) == [
        texts["none"], sad, texts["-1*sad"]
    ]  # fmt: skip
    assert llm().generate([TEXT, TEXT], steering="sad").generations[1][0].text == sad
    assert llm().invoke([HumanMessage(TEXT)]) != ""


async def test_every_async_route_too(texts: dict[str, str]) -> None:
    assert await llm().ainvoke(TEXT, SAD) == texts["sad"]
    assert "".join([chunk async for chunk in llm().astream(TEXT, SAD)]) == texts["sad"]
    assert await llm().abatch([TEXT, TEXT], [{}, SAD]) == [texts["none"], texts["sad"]]


def test_no_cached_text_is_shared_between_presets(texts: dict[str, str]) -> None:
    model = llm(cache=InMemoryCache())
    for _ in range(2):
        for mix, text in texts.items():
            assert model.invoke(TEXT, steering=mix) == text
            assert model.invoke(TEXT, {"configurable": {"steering": mix}}) == text
            assert model.with_steering(mix).invoke(TEXT) == text
    assert len(model.cache._cache) == 3  # type: ignore[union-attr]


def test_the_receipt_usage_and_log_probabilities_are_told(texts: dict[str, str]) -> None:
    ((generation,),) = llm(logprobs=True).generate([TEXT], steering="sad").generations
    info = generation.generation_info
    assert info is not None
    assert info["steering"]["steering"][0]["name"] == "sad"
    assert info["usage_metadata"]["output_tokens"] == 8
    assert info["finish_reason"] == "length"
    assert "".join(one["token"] for one in info["logprobs"]["content"]) == texts["sad"]


def test_stop_ends_the_text(texts: dict[str, str]) -> None:
    word = texts["none"].split()[3]
    assert llm().invoke(TEXT, stop=[word]) == texts["none"].partition(word)[0]
    assert llm(stop=word).invoke(TEXT) == texts["none"].partition(word)[0]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean `sad`"):
        llm().invoke(TEXT, steering="sadd")
    with pytest.raises(ModelInvalidRequestError, match="no argument `tools`"):
        llm().invoke(TEXT, tools=[])
    with pytest.raises(ModelInvalidRequestError, match="the prompt is empty"):
        llm().invoke("")
    with pytest.raises(ModelInvalidRequestError, match="no argument `n_ctxt`; did you mean"):
        llm(n_ctxt=5)


def test_weights_are_shared_with_the_chat_model_and_tokens_counted_alike() -> None:
    assert llm()._session(llm()) is ChatSteerplug(**FIELDS)._session(llm())
    assert llm().get_num_tokens(TEXT) == ChatSteerplug(**FIELDS).get_num_tokens(TEXT)
    assert llm()._get_ls_params()["ls_provider"] == "steerplug"
