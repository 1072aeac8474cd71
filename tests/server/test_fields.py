"""The fields that clients of other servers send: obeyed, ignored by a list, or refused by name."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.resources.chat.completions import Completions as OfChats
from openai.resources.completions import Completions as OfTexts

from steerplug.engine.sampling import SETTINGS, Sampling
from steerplug.server.aliases import ALIASES
from steerplug.server.config import Limits
from steerplug.server.fields import IGNORED, REFUSED
from steerplug.server.requests import Body, ChatBody, CompletionBody
from steerplug.server.translate import chat_settings, completion_settings
from tests.helpers.serving import QUESTION, Client, served, told

FLAG = {
    "type": "object", "properties": {"wet": {"type": "boolean"}}, "required": ["wet"],
    "additionalProperties": False,
}  # fmt: skip
GBNF = 'root ::= "yes" | "no"'
LARK = 'start: "yes" | "no"'


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


def text(client: Client, **body: Any) -> str:
    response = client.chat(**body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def completion(client: Client, **body: Any) -> str:
    response = client.complete(**body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


# Formats of the reply


@pytest.mark.parametrize(
    ("body", "allowed"),
    [
        ({"guided_choice": ["yes", "no"]}, {"yes", "no"}),
        ({"structured_outputs": {"choice": ["yes", "no"], "regex": None}}, {"yes", "no"}),
        ({"response_format": {"type": "choice", "value": ["yes", "no"]}}, {"yes", "no"}),
        ({"guided_regex": "(yes|no)"}, {"yes", "no"}),
        ({"regex": "yes|no"}, {"yes", "no"}),
        ({"grammar": {"type": "regex", "value": "yes|no"}}, {"yes", "no"}),
        ({"response_format": {"type": "regex", "pattern": "yes|no"}}, {"yes", "no"}),
        ({"grammar": LARK}, {"yes", "no"}),
        ({"guided_grammar": f"%llguidance {{}}\n{LARK}"}, {"yes", "no"}),
        ({"response_format": {"type": "grammar", "grammar": LARK}}, {"yes", "no"}),
        ({"json_schema": {"type": "boolean"}}, {"true", "false"}),
        ({"json_schema": {"name": "x", "schema": {"type": "boolean"}}}, {"true", "false"}),
        ({"guided_json": '{"type": "boolean"}'}, {"true", "false"}),
        (
            {"response_format": {"type": "json_schema", "schema": {"type": "boolean"}}},
            {"true", "false"},
        ),
        ({"guided_json": FLAG}, {'{"wet": true}', '{"wet": false}'}),
        ({"format": FLAG}, {'{"wet": true}', '{"wet": false}'}),
        ({"structured_outputs": {"json": FLAG}}, {'{"wet": true}', '{"wet": false}'}),
        ({"grammar": {"type": "json", "value": FLAG}}, {'{"wet": true}', '{"wet": false}'}),
        ({"response_format": {"type": "json", "value": FLAG}}, {'{"wet": true}', '{"wet": false}'}),
    ],
)  # fmt: skip
def test_a_format_is_followed_in_whatever_field_it_is_said(
    client: Client, body: dict[str, Any], allowed: set[str]
) -> None:
    warm = {"temperature": 2.0, "max_tokens": 30, "seed": 3}
    assert text(client, **warm, **body) in allowed
    assert completion(client, **warm, **body) in allowed


def test_any_json_is_asked_for_in_two_ways(client: Client) -> None:
    for body in ({"format": "json"}, {"structured_outputs": {"json_object": True}}):
        assert isinstance(json.loads(text(client, max_tokens=40, **body)), dict)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"grammar": GBNF}, "grammar is written in GBNF, which is not served; send a JSON schema"),
        ({"guided_grammar": GBNF}, "guided_grammar is written in GBNF"),
        ({"ebnf": GBNF}, "ebnf is written in GBNF"),
        ({"response_format": {"type": "grammar", "grammar": GBNF}}, "is written in GBNF"),
        ({"structured_outputs": {"structural_tag": "x"}}, "says structural_tag; give one of json"),
        ({"guided_choice": ["yes", 3]}, "guided_choice holds no choice; send a list of texts"),
        ({"guided_json": "no JSON"}, "guided_json holds no JSON Schema"),
        ({"json_schema": [1]}, "json_schema holds no JSON Schema"),
        ({"guided_regex": "("}, "the regex cannot be followed"),
        ({"grammar": "start: nowhere"}, "the lark cannot be followed"),
        ({"format": "xml"}, "format is 'xml'; send json, or a JSON schema."),
        ({"guided_choice": ["a"], "guided_regex": "b"}, "ask for two formats; send one."),
        ({"response_format": {"type": "json_object", "min": 3}}, "there is no field `min`"),
        ({"response_format": {"type": "xml"}}, "response_format.type: Input should be 'text'"),
        ({"guided_choice": ["a" * 70_000]}, "the limit is 65536"),
    ],
)
def test_a_format_that_cannot_be_followed_is_refused(
    client: Client, body: dict[str, Any], sentence: str
) -> None:
    for ask in (client.chat, client.complete):
        response = ask(**body)
        assert response.status_code == 400
        assert sentence in told(response)


# Sampling


@pytest.mark.parametrize("alias", ["repetition_penalty", "repeat_penalty", "rep_pen"])
def test_a_setting_may_be_said_by_the_name_other_servers_have_for_it(
    client: Client, alias: str
) -> None:
    bare = text(client)
    assert text(client, **{alias: 1.5}) == text(client, repeat_penalty=1.5) != bare
    refused = told(client.chat(**{alias: 50}))
    assert refused == f"{alias}: Input should be less than or equal to 10; it is 50."


def test_two_names_of_a_setting_must_agree(client: Client) -> None:
    assert client.chat(n_predict=3, max_tokens=3).json()["usage"]["completion_tokens"] == 3
    assert client.chat(n_predict=3, max_tokens=None).json()["usage"]["completion_tokens"] == 3
    refused = client.chat(n_predict=3, max_tokens=4)
    assert "`n_predict` and `max_tokens` are one setting and say 3 and 4" in told(refused)


def test_every_setting_of_the_sampler_is_a_field_of_both_endpoints() -> None:
    head = {"model": "x", "prompt": "x", "messages": QUESTION}
    values: dict[str, Any] = {
        name: setting.low if setting.default != setting.low else setting.high
        for name, setting in SETTINGS.items()
    }
    for name, value in values.items():
        expected = Sampling(**{name: value})
        assert expected != Sampling()
        for said, wanted in (({name: value}, expected), ({name: None}, Sampling())):
            chat = ChatBody.model_validate({**head, "prompt": None, **said})
            completion = CompletionBody.model_validate({**head, "messages": None, **said})
            settings = [*chat_settings(chat, Limits(), ""),
                        *completion_settings(completion, Limits(), "")]  # fmt: skip
            assert [one.sampling for one in settings] == [wanted, wanted]


def test_penalties_reach_the_reply(client: Client) -> None:
    said = {"prompt": "rain, rain, rain, rain, rain, rain,", "max_tokens": 6}
    plain = completion(client, **said)
    for name in ("frequency_penalty", "presence_penalty", "dry_multiplier"):
        assert completion(client, **said, **{name: 20.0}) != plain
        assert completion(client, **said, **{name: 0}) == plain
    breakers = {"dry_multiplier": 20.0, "dry_sequence_breakers": '[",", "rain"]'}
    assert completion(client, **said, **breakers) == plain


@pytest.mark.parametrize("breakers", ["[" * 3000, '["x"', "[" * 900 + "]" * 900])
def test_breakers_that_are_no_list_are_refused(client: Client, breakers: str) -> None:
    response = client.complete(dry_sequence_breakers=breakers)
    assert response.status_code == 400
    assert told(response).startswith("dry_sequence_breakers")


def test_a_seed_of_minus_1_is_a_fresh_one(client: Client) -> None:
    warm: dict[str, Any] = {"temperature": 2.0, "top_k": -1, "max_tokens": 8}
    for seed in (-1, 2**32 - 1, None):
        first = client.complete(**warm, seed=seed, n=2).json()["choices"]
        assert len({completion(client, **warm, seed=seed), *(one["text"] for one in first)}) == 3
    assert completion(client, **warm, seed=7) == completion(client, **{**warm, "top_k": 0}, seed=7)


def test_minus_1_tokens_are_as_many_as_fit(client: Client) -> None:
    bare = text(client, max_tokens=60, stop=".")
    for name in ("max_tokens", "max_completion_tokens", "n_predict"):
        assert text(client, **{"max_tokens": None, name: -1}, stop=".") == bare


def test_an_empty_stop_is_none(client: Client) -> None:
    whole, ended = text(client), completion(client)
    for nothing in ("", ["", ""], None):
        assert text(client, stop=nothing) == whole
        assert completion(client, stop=nothing) == ended
    word = whole.split()[3]
    assert text(client, stop=["", word]) == text(client, stopping_strings=[word])


def test_no_likeliest_tokens_without_probabilities_are_nothing_asked(client: Client) -> None:
    for body in ({"top_logprobs": 0}, {"top_logprobs": 0, "logprobs": False}):
        assert client.chat(**body).json()["choices"][0]["logprobs"] is None


def test_a_bias_may_be_said_as_llama_cpp_says_it(client: Client) -> None:
    token = client.chat(logprobs=True).json()["choices"][0]["logprobs"]["content"][0]["token"]
    (number,) = client.session.model.vocab.tokenize(token)
    banned = text(client, logit_bias={str(number): -100})
    assert banned != text(client)
    for bias in ([[number, False]], [[number, -100]], {str(number): False}):
        assert text(client, logit_bias=bias) == banned
    assert client.chat(logit_bias=[["rain", 1]]).status_code == 400


# What is ignored, and what is refused


@pytest.mark.parametrize(
    ("create", "body"), [(OfChats.create, ChatBody), (OfTexts.create, CompletionBody)]
)
def test_each_parameter_of_openai_s_client_is_known(create: Any, body: type[Body]) -> None:
    known = {*body.model_fields, *ALIASES, *IGNORED, *REFUSED, "self", "extra_body"}
    assert set(inspect.signature(create).parameters) <= known


def test_no_field_is_in_two_lists() -> None:
    lists = [set(ALIASES), set(IGNORED), set(REFUSED)]
    assert sum(map(len, lists)) == len(set().union(*lists))
    assert not set(ALIASES) & set(ChatBody.model_fields)
    assert not IGNORED & set(CompletionBody.model_fields)


def test_what_leaves_the_reply_as_it_is_is_ignored(client: Client) -> None:
    said = {
        "user": "ann", "metadata": {"a": "b"}, "store": True, "service_tier": "auto",
        "prediction": {"type": "content", "content": "Rain"}, "chat_id": "1", "session_id": "2",
        "keep_alive": "5m", "cache_prompt": True, "id_slot": 1, "timings_per_token": True,
        "char_name": "Ann", "parallel_tool_calls": True, "stream_options": {"x": 1},
    }  # fmt: skip
    assert text(client, **said) == text(client)
    said.pop("parallel_tool_calls")
    assert completion(client, **said) == completion(client)


@pytest.mark.parametrize("nothing", [None, False, 0, "", [], {}])
def test_a_value_that_says_not_asks_for_nothing(client: Client, nothing: object) -> None:
    names = ("ignore_eos", "min_tokens", "lora", "audio", "grammar", "guided_json", "frobnicate")
    for name in names:
        assert client.chat(**{name: nothing}, max_tokens=1).status_code == 200, name
        assert client.complete(**{name: nothing}, max_tokens=1).status_code == 200, name


def test_a_default_of_another_server_asks_for_nothing(client: Client) -> None:
    said = {
        "tfs_z": 1.0, "length_penalty": 1, "guidance_scale": 1.0, "num_beams": 1, "min_keep": 1,
        "skip_special_tokens": True, "do_sample": True, "reasoning_budget_tokens": -1,
        "adaptive_target": -1.0, "modalities": ["text"], "verbosity": "medium",
    }  # fmt: skip
    assert text(client, **said) == text(client)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"ignore_eos": True}, "ignore_eos is not served: use logit_bias"),
        ({"min_tokens": 5}, "min_tokens is not served"),
        ({"stop_token_ids": [2]}, "stop_token_ids is not served: send texts in stop."),
        ({"use_beam_search": True}, "use_beam_search is not served"),
        ({"prompt_logprobs": 1}, "prompt_logprobs is not served"),
        ({"lora": [{"id": 0, "scale": 1}]}, "lora is not served"),
        ({"tfs_z": 0.9}, "tfs_z is not served"),
        ({"samplers": ["temperature", "top_k"]}, "samplers is not served"),
        ({"do_sample": False}, "temperature: 0"),
        ({"skip_special_tokens": False}, "skip_special_tokens is not served"),
        ({"extra_body": {"steering": "pirate"}}, "beside the messages"),
        ({"modalities": ["text", "audio"]}, "text only"),
        ({"web_search_options": {"x": 1}}, "offer a tool"),
        ({"temprature": 0.3}, "there is no field `temprature`; did you mean `temperature`?"),
        ({"qqqqqq": 1}, "there is no field `qqqqqq`; leave it out."),
    ],
)
def test_what_would_change_the_reply_and_cannot_be_obeyed_is_refused(
    client: Client, body: dict[str, Any], sentence: str
) -> None:
    (name,) = body
    for ask in (client.chat, client.complete):
        response = ask(**body)
        assert response.status_code == 400
        assert sentence in told(response)
        assert response.json()["error"]["param"] == name


# Messages and tools


def test_a_part_without_text_is_an_empty_text(client: Client) -> None:
    parts = [{"type": "text", "text": None}, {"type": "text", "text": "What is rain?"}]
    assert text(client, messages=[{"role": "user", "content": parts}]) == text(client)


def test_bookkeeping_of_messages_is_ignored_and_what_they_hold_besides_refused(
    client: Client,
) -> None:
    kept = {"id": "1", "timestamp": 3, "cache_control": {"type": "ephemeral"}, "annotations": [1]}
    assert text(client, messages=[{**QUESTION[0], **kept}]) == text(client)
    for name, value in (("images", ["aGk="]), ("audio", {"id": "a"}), ("rolle", "user")):
        refused = told(client.chat(messages=[{**QUESTION[0], name: value}]))
        assert refused.startswith("message 0: ")
        assert name in refused


def test_a_refusal_and_a_call_of_the_older_kind_are_part_of_the_chat(client: Client) -> None:
    asked = {"role": "user", "content": "Weather in Oslo?"}
    after = {"role": "user", "content": "So?"}

    def n_tokens(*between: dict[str, Any]) -> int:
        reply = client.chat(messages=[asked, *between, after], max_tokens=1).json()
        return int(reply["usage"]["prompt_tokens"])

    refused = {"role": "assistant", "content": None, "refusal": "That I cannot say."}
    said = {"role": "assistant", "content": "That I cannot say."}
    assert n_tokens(refused) == n_tokens(said)
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    older = ({"role": "assistant", "content": None, "function_call": function},
             {"role": "function", "name": "weather", "content": "rain"})  # fmt: skip
    call = {"id": "call_1", "type": "function", "function": function}
    newer = ({"role": "assistant", "content": None, "tool_calls": [call]},
             {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "rain"})
    assert n_tokens(*older) == n_tokens(*newer)


def test_fields_of_tools_are_looked_at_as_well(client: Client) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
    tool = {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}
    assert client.chat(tools=[tool], max_tokens=2).status_code == 200
    tool = {"type": "function", "function": {**function, "paramters": {"type": "object"}}}
    refused = told(client.chat(tools=[tool]))
    assert refused == "tool 0: there is no field `paramters`; did you mean `parameters`?"
