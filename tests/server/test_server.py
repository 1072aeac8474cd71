"""The endpoints of the server, spoken to over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from steerplug.engine.engine import Engine
from steerplug.server.errors import Refused
from tests.helpers.serving import (
    NAME,
    PIRATE,
    QUESTION,
    SHORT,
    Client,
    events,
    served,
    session,
    told,
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


def test_models_are_the_model_and_one_for_each_preset(client: Client) -> None:
    ids = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert ids[0] == NAME
    assert PIRATE in ids
    assert client.get("/models").json()["data"][1]["object"] == "model"
    assert client.get(f"/v1/models/{PIRATE}").json()["id"] == PIRATE
    assert client.get("/v1/models/smollm2@parate").status_code == 404


def test_a_reply_says_what_was_said_and_applied(client: Client) -> None:
    response = client.chat(model=PIRATE)
    answer = response.json()
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert answer["model"] == PIRATE
    assert answer["object"] == "chat.completion"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    steering = answer["steering"]
    assert steering["mix"] == "pirate"
    assert [one["name"] for one in steering["presets"]] == ["pirate"]
    assert steering["tokens_steered"] > 0
    assert response.headers["x-steering-digest"] == steering["digest"]
    assert choice["message"]["content"] != client.chat().json()["choices"][0]["message"]["content"]


def test_an_unsteered_reply_says_so(client: Client) -> None:
    response = client.chat()
    assert response.headers["x-steering-digest"] == "none"
    assert response.json()["steering"]["presets"] == []


def test_a_reply_is_what_the_session_says(client: Client) -> None:
    from steerplug import Sampling
    from steerplug.session import Settings

    session = client.session
    for mix in ("none", "pirate"):
        reply = session.chat(QUESTION, mix, Settings(Sampling(0), max_tokens=12))
        answer = client.chat(steering=mix).json()
        assert answer["choices"][0]["message"]["content"] == reply.text
        assert answer["steering"]["digest"] == reply.receipt.digest


def test_cached_tokens_are_told(client: Client) -> None:
    messages = [{"role": "user", "content": "How deep is the blue sea, in metres?"}]
    client.chat(messages=messages)
    usage = client.chat(messages=messages).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_a_stream_has_a_beginning_an_end_and_the_same_text(client: Client) -> None:
    whole = client.chat(model=PIRATE).json()
    told = events(client.chat(model=PIRATE, stream=True, stream_options={"include_usage": True}))
    first, *parts, last, usage = told
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(part["choices"][0]["delta"]["content"] for part in parts)
    assert text == whole["choices"][0]["message"]["content"]
    assert last["choices"][0] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"
    }  # fmt: skip
    assert last["steering"]["digest"] == whole["steering"]["digest"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 12
    assert all(one["usage"] is None for one in told[:-1])
    assert len({one["id"] for one in told}) == 1


def test_without_include_usage_a_stream_tells_none(client: Client) -> None:
    assert all("usage" not in one for one in events(client.chat(stream=True)))


def test_a_trace_says_how_strongly_each_token_was_steered(client: Client) -> None:
    for model, moves in ((PIRATE, True), (NAME, False)):
        parts = events(client.chat(model=model, stream=True, steering_trace=True))[1:-1]
        moved = [part["choices"][0]["moved"] for part in parts]
        assert len(moved) == 12
        assert (max(moved) > 0) == moves


def test_several_replies_are_several(client: Client) -> None:
    body: dict[str, Any] = {"n": 3, "seed": 7, "temperature": 1.5}
    whole = client.chat(**body).json()
    assert [one["index"] for one in whole["choices"]] == [0, 1, 2]
    assert len({one["message"]["content"] for one in whole["choices"]}) == 3
    assert whole["usage"]["completion_tokens"] == 36
    streamed, ended = ["", "", ""], set()
    for one in events(client.chat(**body, stream=True)):
        choice = one["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content", "")
        ended |= {choice["index"]} if choice["finish_reason"] else set()
    assert len(set(streamed)) == 3
    assert ended == {0, 1, 2}


def test_a_seed_repeats_a_reply(client: Client) -> None:
    client.chat()  # from here on the prompt is in the cache

    def say(seed: int) -> str:
        answer = client.chat(seed=seed, temperature=1.5).json()
        return str(answer["choices"][0]["message"]["content"])

    assert say(7) == say(7) != say(-8)


def test_stop_ends_a_reply(client: Client) -> None:
    text = client.chat().json()["choices"][0]["message"]["content"]
    word = text.split()[3]
    answer = client.chat(stop=[word, "never said"]).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    assert answer["message"]["content"] == text.partition(word)[0]


def test_logit_bias_forbids_a_token(client: Client) -> None:
    token = client.chat(logprobs=True).json()["choices"][0]["logprobs"]["content"][0]["token"]
    (number,) = client.session.model.vocab.tokenize(token)
    answer = client.chat(logit_bias={str(number): -100}).json()
    assert not answer["choices"][0]["message"]["content"].startswith(token)


def test_logprobs_of_a_chat(client: Client) -> None:
    answer = client.chat(logprobs=True, top_logprobs=3).json()["choices"][0]
    content = answer["logprobs"]["content"]
    assert len(content) == 12
    for one in content:
        assert one["logprob"] <= 0
        assert len(one["top_logprobs"]) == 3
        assert one["logprob"] == pytest.approx(one["top_logprobs"][0]["logprob"])  # greedy
    spelt = b"".join(bytes(one["bytes"]) for one in content).decode()
    assert spelt == answer["message"]["content"]
    parts = events(client.chat(logprobs=True, stream=True))[1:-1]
    assert all(len(one["choices"][0]["logprobs"]["content"]) == 1 for one in parts)


def test_a_schema_is_followed(client: Client) -> None:
    schema = {
        "type": "object", "properties": {"wet": {"type": "boolean"}}, "required": ["wet"],
        "additionalProperties": False,
    }  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "rain", "schema": schema}}
    text = client.chat(model=PIRATE, response_format=wanted, max_tokens=40).json()
    assert set(json.loads(text["choices"][0]["message"]["content"])) == {"wet"}
    text = client.chat(response_format={"type": "json_object"}, max_tokens=40).json()
    assert isinstance(json.loads(text["choices"][0]["message"]["content"]), dict)


def test_completions_go_on_with_texts(client: Client) -> None:
    answer = client.complete(prompt=["Rain is", "Snow is"], n=2, logprobs=2, echo=False).json()
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 32
    likely = answer["choices"][0]["logprobs"]
    assert {len(value) for value in likely.values()} == {8}
    assert likely["text_offset"][0] == 0
    assert "".join(likely["tokens"]) == answer["choices"][0]["text"]


def test_completions_stream_and_echo(client: Client) -> None:
    whole = client.complete(echo=True, steering="pirate").json()["choices"][0]["text"]
    assert whole.startswith("Rain is")
    parts = events(client.complete(echo=True, steering="pirate", stream=True))
    assert "".join(one["choices"][0]["text"] for one in parts) == whole
    assert parts[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(("heartbeat", "status"), [(10.0, 413), (0.05, 200)])
def test_a_stream_that_cannot_be_has_its_own_status_if_that_shows_before_a_heartbeat(
    monkeypatch: pytest.MonkeyPatch, heartbeat: float, status: int
) -> None:
    async def refuse(*_said: object, whole: bool) -> AsyncIterator[None]:
        assert not whole
        await asyncio.sleep(0.3)
        raise Refused("no.", 413)
        yield

    monkeypatch.setattr(session(), "astream_chat", refuse)
    with served(heartbeat=heartbeat) as client:
        response = client.chat(stream=True)
    assert response.status_code == status
    if status == 200:
        assert events(response)[-1]["error"]["message"] == "no."


def test_a_reply_that_is_no_stream_is_handed_over_whole(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, generate = list[bool](), session().engine.agenerate

    def agenerate(*said: Any, whole: bool) -> Any:
        asked.append(whole)
        return generate(*said, whole=whole)

    monkeypatch.setattr(session().engine, "agenerate", agenerate)
    for ask in (client.chat, client.complete):
        for stream in (False, True):
            assert ask(stream=stream).status_code == 200
    assert asked == [True, False, True, False]


# Choosing steering


def unfit(**said: Any) -> dict[str, Any]:
    """A tool whose parameters say this too."""
    parameters = {"type": "object", "properties": {"x": {}}, **said}
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def test_who_says_it_first_decides(client: Client) -> None:
    def mix(**body: object) -> str:
        headers = {"x-steering": "formal"}
        said = client.post(
            "/v1/chat/completions", json={**SHORT, "max_tokens": 1, **body}, headers=headers
        )
        return str(said.json()["steering"]["mix"])

    assert mix(model=PIRATE, steering="concise") == "concise"
    assert mix(model=PIRATE) == "pirate"
    assert mix() == "formal"
    assert mix(steering="none") == "none"
    assert mix(model=f"{NAME}@none") == "none"
    assert client.chat(max_tokens=1).json()["steering"]["mix"] == "none"


def test_strengths_may_be_an_object_or_a_mix_in_the_model_s_name(client: Client) -> None:
    strengths = {"pirate": 0.8, "concise": -0.5}
    by_object = client.chat(steering=strengths, max_tokens=1).json()["steering"]
    by_name = client.chat(model=f"{NAME}@0.8*pirate - 0.5*concise", max_tokens=1).json()["steering"]
    assert by_object["digest"] == by_name["digest"]
    assert {one["name"]: one["strength"] for one in by_object["presets"]} == strengths
    assert client.chat(steering={}, max_tokens=1).json()["steering"]["presets"] == []


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"model": "smollm2@pirat"}, 404, "did you mean `pirate`?"),
        ({"model": "smolm2"}, 404, "did you mean `smollm2`?"),
        ({"model": "gpt-4"}, 404, "GET /v1/models lists all"),
        ({"steering": "/etc/passwd"}, 404, "there is no preset"),
        ({"steering": "presets/pirate.yaml"}, 404, "there is no preset"),
        ({"steering": "hf:org/repo/x.gguf"}, 404, "there is no preset"),
        ({"steering": '"../../x.gguf"'}, 404, "there is no preset"),
        ({"steering": {"~/x.yaml": 1.0}}, 404, "there is no preset"),
        ({"steering": {"pirate": [0.5, 0.5]}}, 400, "steering.pirate: Input should be"),
        ({"steering": "pirate +"}, 400, "cannot be read"),
        ({"steering": "9*pirate"}, 400, "beyond the range"),
        ({"steering": {"pirate": 1e300}}, 400, "beyond the range"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "owl", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text only"),
        ({"n": 9}, 400, "n: Input should be less than or equal to 8; it is 9."),
        ({"messages": [{"content": "x"}]}, 400, "messages.0.role: Field required."),
        ({"n": 0, "top_p": 2}, 400, "to 1; it is 0 (1 more)."),
        ({"stop": ["a"] * 17}, 400, "stop: List should have at most 16"),
        ({"tool_choice": {"type": "function"}}, 400, "tool_choice.function: Field required."),
        ({"frequency_penalty": 101}, 400, "frequency_penalty: Input should be"),
        ({"logit_bias": {"one": 1}}, 400, "logit_bias.one: String should match"),
        ({"logit_bias": {"999999999": 1}}, 400, "token 999999999"),
        ({"top_logprobs": 2}, 400, "logprobs: true"),
        ({"functions": [{}]}, 400, "tools"),
        ({"response_format": {"type": "json_schema"}}, 400, "json_schema"),
        ({"tool_choice": "required"}, 400, "there are no tools"),
        ({"tools": [unfit(required=5)]}, 400, "in the tool 'f', the JSON schema cannot be fol"),
        ({"tools": [unfit(required=[[1]])]}, 400, "in the tool 'f', the JSON schema cannot be fol"),
        ({"response_format": {"type": "json_object", "schema": {"$ref": "x"}}}, 400, "schema"),
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, 400, "512"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    client: Client, body: dict[str, object], status: int, sentence: str
) -> None:
    for stream in (False, True):
        response = client.chat(**body, stream=stream)
        assert response.status_code == status, response.text
        assert sentence in told(response)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt.0: List should have at least 1 item"),
        ({"prompt": [True]}, "prompt.0: Input should be"),
        ({"prompt": ["a", 1]}, "prompt.0: Input should be a valid integer; it is 'a'."),
        ({"prompt": [1, 49152]}, "the prompt names token 49152; this model has tokens 0 to 49151."),
        ({"prompt": [[1], [-1]], "echo": True}, "the prompt names token -1; this model has"),
        ({"prompt": [1] * 600}, "512"),
        ({"max_tokens": -2}, "max_tokens: Input should be greater than or equal to -1; it is -2."),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 4}, "best_of"),
        ({"prompt": ["a"] * 22, "n": 3}, "prompts times n may be at most 64 and are 66; send"),
        ({"prompt": ["a"] * 65}, "prompts times n may be at most 64 and are 65; send fewer."),
        ({"prompt": [[5]] * 65}, "prompts times n may be at most 64 and are 65; send fewer."),
    ],
)
def test_completions_refuse_what_they_cannot_do(
    client: Client, body: dict[str, object], sentence: str
) -> None:
    response = client.complete(**body)
    assert response.status_code == 400
    assert sentence in told(response)


def test_who_names_no_model_is_told_where_they_are(client: Client) -> None:
    response = client.post("/v1/chat/completions", json={"messages": QUESTION})
    assert told(response) == "model: Field required; GET /v1/models lists all."


def test_what_is_not_there_is_said_in_the_envelope(client: Client) -> None:
    response = client.post("/v1/moderations", json={"model": NAME, "input": "x"})
    assert response.status_code == 404
    assert told(response) == (
        "there is no POST /v1/moderations here; GET /openapi.json lists what there is."
    )
    other = client.get("/v1/chat/completions")
    assert other.status_code == 405
    assert "there is no GET /v1/chat/completions here; GET /openapi.json" in told(other)
    assert "/v1/chat/completions" in client.get("/openapi.json").json()["paths"]


def test_presets_are_described(client: Client) -> None:
    presets = {one["name"]: one for one in client.get("/steering/presets").json()["data"]}
    pirate = presets["pirate"]
    assert pirate["description"].startswith("Answers like a pirate")
    assert pirate["too_much"].startswith("Too much looks like")
    assert pirate["strength"]["max"] == 2.0
    assert pirate["tokens_saved"] > 50
    default = client.chat(model=PIRATE, max_tokens=1).json()["steering"]["presets"][0]["strength"]
    assert pirate["strength"]["default"] == default


def test_the_page_is_served_with_a_strict_policy(client: Client) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert client.get("/..%2fapp.py").status_code == 404
    paths = ("/", "/health", "/readyz")
    assert [client.head(path).status_code for path in paths] == [200, 200, 200]


def test_a_server_is_ready_as_long_as_its_engines_take_requests(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    monkeypatch.setattr(Engine, "is_open", False)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
    assert client.get("/health").status_code == 200


def test_metrics_count(client: Client) -> None:
    def counted() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines if not line.startswith("#")
        }  # fmt: skip

    before = counted()
    client.chat()
    after = counted()
    assert after["steerplug_generated_tokens_total"] == (
        before["steerplug_generated_tokens_total"] + 12
    )
    answered = 'steerplug_http_requests_total{path="/v1/chat/completions",status="200"}'
    assert after[answered] == before.get(answered, 0) + 1
    assert after["steerplug_requests_running"] == 0
