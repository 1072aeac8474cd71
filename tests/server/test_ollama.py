"""Ollama's API: its own client is the oracle, and what it gets is what OpenAI's clients get."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from steerplug.session import Session
from tests.helpers.serving import NAME, PIRATE, QUESTION, Client, served, told
from tests.helpers.thinking import scripted, template
from tests.helpers.tiny_models import tiny_model

KEY = "a-key-for-tests"
GREEDY = {"temperature": 0, "num_predict": 12}
SHORT = {"model": PIRATE, "messages": QUESTION, "options": GREEDY}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a place.",
        "parameters": {
            "type": "object", "properties": {"place": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["place"],
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(api_keys=(KEY,)) as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        yield client


@pytest.fixture
def ai(client: Client) -> Iterator[ollama.Client]:
    with ollama.Client(client.root, headers={"Authorization": f"Bearer {KEY}"}) as ai:
        yield ai


@pytest.fixture
def said(client: Client) -> str:
    """What the pirate says to OpenAI's clients."""
    return str(client.chat(model=PIRATE).json()["choices"][0]["message"]["content"])


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_presets_are_models_with_ollamas_tag(ai: ollama.Client) -> None:
    listed = ai.list().models
    assert f"{PIRATE}:latest" in [one.model for one in listed]
    assert len({one.digest for one in listed}) == len(listed)
    assert listed[0].details is not None
    assert listed[0].details.quantization_level == "Q4_1"
    assert [one.model for one in ai.ps().models] == [f"{NAME}:latest"]


def test_a_model_is_told_of_as_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_model("llama").read_bytes())
    os.utime(path, (7, 7))
    with closing(Session(path, n_ctx=64, n_threads=1)) as own, served(own) as client:
        before = client.get("/api/tags").json()
        assert before["models"][0]["size"] == path.stat().st_size
        assert before["models"][0]["modified_at"] == "1970-01-01T00:00:07Z"
        path.rename(tmp_path / "other.gguf")
        assert client.get("/api/tags").json() == before
        path.write_bytes(b"another")
        assert client.get("/api/tags").json() == before
        assert client.get("/api/ps").json()["models"][0]["size"] == before["models"][0]["size"]
        shown = client.post("/api/show", json={"model": NAME}).json()
        assert shown["modified_at"] == before["models"][0]["modified_at"]


def test_a_model_is_shown(ai: ollama.Client, client: Client) -> None:
    shown = ai.show(f"{PIRATE}:latest")
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.block_count"] == 30
    assert shown.template == client.session.model.chat_template
    with pytest.raises(ollama.ResponseError, match="there is no preset `parate`"):
        ai.show("smollm2@parate")
    assert client.post("/api/show", json={}).json()["error"].startswith("model: Field required;")
    assert client.post("/api/show", json={"name": NAME}).json()["capabilities"]


@pytest.mark.parametrize("model", [PIRATE, f"{PIRATE}:latest", f"{PIRATE}:steering:latest"])
def test_a_chat_says_what_openais_clients_are_told(
    ai: ollama.Client, said: str, model: str
) -> None:
    answer = ai.chat(model, QUESTION, options=GREEDY, keep_alive="5m")
    assert answer.message.content == said
    assert answer.model == f"{model.removesuffix(':latest')}:latest"
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "length", 12)
    assert answer.total_duration
    assert answer.prompt_eval_duration


def test_a_stream_says_the_same(ai: ollama.Client, said: str) -> None:
    *parts, last = ai.chat(PIRATE, QUESTION, options=GREEDY, stream=True)
    assert len(parts) > 3
    assert not any(part.done for part in parts)
    assert "".join(part.message.content or "" for part in parts) == said
    assert (last.done, last.done_reason, last.eval_count) == (True, "length", 12)


def test_a_stream_is_the_default(client: Client, said: str) -> None:
    response = client.post("/api/chat", json=SHORT)
    *parts, last = lines(response)
    assert "".join(part["message"]["content"] for part in parts) == said
    assert last["steering"]["mix"] == "pirate"
    assert response.headers["x-steering-carrier"] == "steering"


def test_a_prompt_is_a_chat_and_a_raw_one_a_text(ai: ollama.Client, client: Client) -> None:
    said = client.chat(messages=[{"role": "system", "content": "Be brief."}, *QUESTION]).json()
    answer = ai.generate(NAME, "What is rain?", system="Be brief.", options=GREEDY)
    assert answer.response == said["choices"][0]["message"]["content"]
    text = client.complete(max_tokens=12).json()["choices"][0]["text"]
    parts = ai.generate(NAME, "Rain is", raw=True, options=GREEDY, stream=True)
    assert "".join(part.response or "" for part in parts) == text


def test_without_a_text_the_model_is_loaded(ai: ollama.Client) -> None:
    assert ai.generate(PIRATE, "").done_reason == "load"
    assert ai.chat(PIRATE, []).done_reason == "load"
    with pytest.raises(ollama.ResponseError, match="there is no model `llama3`"):
        ai.generate("llama3", "")


def test_a_reply_follows_a_format(ai: ollama.Client) -> None:
    schema = {
        "type": "object", "properties": {"wet": {"type": "boolean"}}, "required": ["wet"],
        "additionalProperties": False,
    }  # fmt: skip
    options = {"num_predict": 40}
    text = ai.chat(NAME, QUESTION, format=schema, options=options).message.content
    assert set(json.loads(text or "")) == {"wet"}


def test_tools_are_called_and_their_results_read(ai: ollama.Client) -> None:
    asked = [{"role": "user", "content": "Call get_weather for Rome."}]
    options = {"temperature": 0, "num_predict": 60, "tool_choice": "required"}
    more: dict[str, Any] = {"tools": [WEATHER], "options": options}
    whole = ai.chat(NAME, asked, **more)
    streamed = [part.message for part in ai.chat(NAME, asked, stream=True, **more)]
    (call,) = list(whole.message.tool_calls or [])
    assert call.function.name == "get_weather"
    assert call.function.arguments["place"] in ("Rome", "Oslo")
    calls = [call for message in streamed for call in message.tool_calls or ()]
    assert [one.function.name for one in calls] == ["get_weather"]
    result = {"role": "tool", "content": "It rains.", "tool_name": "get_weather"}
    after = ai.chat(NAME, [*asked, whole.message, result], tools=[WEATHER], options=GREEDY)
    assert after.prompt_eval_count
    assert whole.prompt_eval_count
    assert after.prompt_eval_count > whole.prompt_eval_count


def test_probabilities_are_told(ai: ollama.Client, client: Client) -> None:
    answer = ai.chat(PIRATE, QUESTION, options=GREEDY, logprobs=True, top_logprobs=2)
    same = client.chat(model=PIRATE, logprobs=True, top_logprobs=2).json()["choices"][0]
    content = same["logprobs"]["content"]
    assert [one.token for one in answer.logprobs or ()] == [one["token"] for one in content]
    *parts, _ = ai.chat(PIRATE, QUESTION, options=GREEDY, logprobs=True, stream=True)
    assert [part.logprobs[0].token for part in parts if part.logprobs] == [
        one["token"] for one in content
    ]


def test_thoughts_come_apart(
    monkeypatch: pytest.MonkeyPatch, ai: ollama.Client, client: Client
) -> None:
    session, roomy = client.session, {**GREEDY, "num_predict": 60}
    monkeypatch.setattr(session, "template", template("Qwen3", session.model))
    script = scripted(session.model, monkeypatch)
    script("<think>\nHm, so.\n</think>\n\nBlue.<|im_end|>")
    whole = ai.chat(NAME, QUESTION, think=True, options=roomy).message
    assert (whole.thinking, whole.content) == ("Hm, so.", "Blue.")
    script("<think>\nHm, so.\n</think>\n\nBlue.<|im_end|>")
    text = "What is rain?"
    parts = list(ai.generate(NAME, text, think=True, stream=True, options=roomy))
    assert "".join(part.thinking or "" for part in parts).strip() == "Hm, so."
    assert "".join(part.response or "" for part in parts) == "Blue."


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"options": {"temperature": -1}}, "temperature: Input should be greater"),
        ({"options": {"num_predict": 0}}, "num_predict: Input should be greater than or equal"),
        ({"options": {"steering": "parate"}}, "there is no preset `parate`"),
        ({"options": {"n": 2}}, "n is not served here"),
        ({"options": {"warmth": 1}}, "there is no field `warmth`"),
        ({"model": "llama3:latest"}, "there is no model `llama3`"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aaaa"]}]}, "text only"),
        ({"messages": [{"role": "oracle", "content": "x"}]}, "messages.0.role"),
        ({"messages": "Hi"}, "messages: Input should be a valid list"),
        ({"format": "yaml"}, "format is 'yaml'; send json, or a JSON schema."),
        ({"options": {"messages": [1]}}, "`options.messages` is not read here; say it in"),
        ({"options": {"stream": False}}, "`options.stream` is not read here; say it in `stream`."),
        ({"temperature": 1}, "`options.temperature` is not read here; say it in `temperature`."),
        ({"messages": [], "prompt": "Hi"}, "there is no field `prompt`"),
    ],
)
def test_what_cannot_be_obeyed_is_one_sentence(
    client: Client, body: dict[str, Any], sentence: str
) -> None:
    response = client.post("/api/chat", json={**SHORT, **body})
    assert response.status_code in (400, 404)
    assert sentence in response.json()["error"]


@pytest.mark.parametrize("prompt", ["x", ""])
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"suffix": "end"}, "suffix is not served"),
        ({"template": "{{ .Prompt }}"}, "template is not served"),
        ({"images": ["aaaa"]}, "images is not served"),
        ({"context": [1, 2]}, "context is not served"),
        ({"messages": QUESTION}, "`messages` is not read here; say it in `prompt`."),
        ({"options": {"messages": QUESTION}}, "`options.messages` is not read here; say it in"),
        ({"options": {"model": "zz"}}, "`options.model` is not read here; say it in `model`."),
        ({"options": {"logprobs": True}}, "`options.logprobs` is not read here; say it in"),
        ({"raw": True, "options": {"prompt": "y"}}, "`options.prompt` is not read here; say it"),
        ({"tools": [WEATHER]}, "tools is not served here: tools belong to /api/chat."),
        ({"raw": True, "tools": [WEATHER]}, "tools belong to /api/chat."),
        ({"functions": [WEATHER["function"]]}, "functions is not served here: tools belong to"),
        ({"options": {"tools": [WEATHER], "tool_choice": "required"}}, "tools belong to /api/chat"),
        ({"options": {"tool_choice": "required"}}, "tool_choice is not served here: tools belong"),
    ],
)
def test_what_a_prompt_cannot_ask_for_is_one_sentence(
    client: Client, prompt: str, body: dict[str, Any], sentence: str
) -> None:
    response = client.post("/api/generate", json={"model": NAME, "prompt": prompt, **body})
    assert response.status_code == 400
    assert sentence in response.json()["error"]


def test_options_may_repeat_what_is_said_beside_them(client: Client) -> None:
    said = {"model": NAME, "stream": False, "format": "", "temperature": 0}
    body = {"stream": False, "messages": QUESTION, **said, "top_k": None}
    body["options"] = {**GREEDY, **said, "top_k": 1}
    assert client.post("/api/chat", json=body).status_code == 200
    nothing: dict[str, Any] = {"messages": [], "tools": [], "tool_choice": None}
    body = {**said, "prompt": "x", **nothing, "options": {"num_predict": 1, **nothing}}
    assert client.post("/api/generate", json=body).status_code == 200


def test_an_error_within_a_stream_is_its_last_line(
    client: Client, ai: ollama.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerplug.errors import SteerplugError

    async def breaks(*_: Any, **__: Any) -> Any:
        from steerplug.engine.engine import Piece

        yield Piece("Rain", 1, 0.0)
        raise SteerplugError("the rain is over.")

    monkeypatch.setattr(client.session, "astream_chat", breaks)
    first, last = lines(client.post("/api/chat", json=SHORT))
    assert first["message"]["content"] == "Rain"
    assert last == {"error": "the rain is over."}
    with pytest.raises(ollama.ResponseError, match="the rain is over"):
        list(ai.chat(NAME, QUESTION, stream=True))


def test_the_guard_holds_here_too(client: Client, ai: ollama.Client) -> None:
    with ollama.Client(client.root) as stranger:
        with pytest.raises(ollama.ResponseError, match="an API key is needed") as refused:
            stranger.chat(NAME, QUESTION)
        assert refused.value.status_code == 401
    before = client.get("/metrics").text
    ai.chat(NAME, QUESTION, options=GREEDY)
    after = client.get("/metrics").text
    counted = 'steerplug_http_requests_total{path="/api/chat",status="200"}'
    assert before.partition(counted)[2].split("\n")[0] != after.partition(counted)[2].split("\n")[0]
    assert client.get("/api/nothing").json() == {
        "error": "there is no GET /api/nothing here; GET /openapi.json lists what there is."
    }


# What clients of llama.cpp's server ask for


def test_texts_become_tokens_and_texts_again(client: Client) -> None:
    vocab = client.session.model.vocab
    text = "Rain 雨 <|im_end|>"
    tokens = client.post("/tokenize", json={"content": text}).json()["tokens"]
    assert tokens == vocab.tokenize(text, special=True)
    assert client.post("/detokenize", json={"tokens": tokens}).json() == {"content": text}
    plain = client.post("/tokenize", json={"content": text, "parse_special": False}).json()
    assert len(plain["tokens"]) > len(tokens)
    asked = {"content": text, "with_pieces": True}
    pieces = client.post("/tokenize", json=asked).json()["tokens"]
    spelt = [p if isinstance(p, list) else list(p.encode()) for p in (x["piece"] for x in pieces)]
    assert bytes(byte for piece in spelt for byte in piece).decode() == text
    refused = client.post("/detokenize", json={"tokens": [49152]})
    assert "the list names token 49152" in told(refused)
    misspelt = client.post("/tokenize", json={"content": text, "with_piece": True})
    assert "there is no field `with_piece`; did you mean `with_pieces`?" in told(misspelt)


def test_props_describe_the_model(client: Client) -> None:
    props = client.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert props["default_generation_settings"]["params"]["top_k"] == 40
    assert props["chat_template"] == client.session.model.chat_template
    assert (props["bos_token"], props["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "/" not in props["model_path"]
    assert client.get(f"/props?model={props['model_alias']}@pirate").json() == props
    refused = client.get("/props?model=nosuch")
    assert refused.status_code == 404
    assert "there is no model `nosuch`" in told(refused)
