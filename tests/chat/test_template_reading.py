"""What a template drops or refuses is given in another form, by another role, or refused by name.

The templates here have one trait each of templates in the field; every word of a chat is to be in
the text, in its order.
"""

import json
from collections.abc import Sequence
from typing import cast

import pytest

from steerplug.chat.renderer import Renderer
from steerplug.chat.template import Message
from steerplug.chat.tool import Tool, ToolCall
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, RequestError
from tests.chat.test_template_oracle import TwoTokens, renderer, theirs
from tests.helpers.families import BOTH, CLOCK, NOW, OSLO, WEATHER

SYSTEM: Message = {"role": "system", "content": "Be brief."}
USER: Message = {"role": "user", "content": "How is it in Oslo?"}
ASSISTANT: Message = {"role": "assistant", "content": "Which one?"}
AGAIN: Message = {"role": "user", "content": "The capital."}
CALLS: Message = {"role": "assistant", "content": "", "tool_calls": (OSLO,)}
WORDED: Message = {**CALLS, "content": "Let me look."}
RESULT: Message = {"role": "tool", "content": "4 °C", "tool_call_id": OSLO.id, "name": OSLO.name}
LAST: Message = {"role": "user", "content": "Thanks."}
LATE: Message = {"role": "system", "content": "In French now."}
AGENT = [SYSTEM, USER, ASSISTANT, AGAIN, CALLS, RESULT, LAST]

BEGIN, END = "{{ '<' + m.role + '>' + m.content }}", "{{ '</' + m.role + '>' }}"
TURN = BEGIN + END
TURNS = f"{{% for m in messages %}}{TURN}{{% endfor %}}"
SHOWN_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
CALL = (
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": ARGUMENTS}\n</tool_call>{% endfor %}'
)
AS_MAPPING = CALL.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
AS_TEXT = CALL.replace("ARGUMENTS", "{{ c.function.arguments }}")
PARTS = (
    "{% for m in messages %}{{ m.role | capitalize }}:"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ ' ' + part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
ALTERNATE = (
    "{% for m in messages if m.role != 'system' %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
TOOL_CHAT = f"{SHOWN_TOOLS}{{% for m in messages %}}{BEGIN}{AS_MAPPING}{END}{{% endfor %}}"

TRAITS = {
    "content as parts": PARTS,
    "a system message is refused": NO_SYSTEM + TURNS,
    "a system message is dropped": (
        f"{{% for m in messages if m.role in ('user', 'assistant') %}}{TURN}{{% endfor %}}"
    ),
    "roles alternate": ALTERNATE + TURNS,
    "roles alternate, and no system": NO_SYSTEM + ALTERNATE + TURNS,
    "tools are shown, calls are not": SHOWN_TOOLS + TURNS,
    "tools, calls and results are shown": TOOL_CHAT,
    "tools, calls and results are shown, roles alternate": (
        ALTERNATE.replace("!= 'system'", "in ('user', 'assistant') and not m.tool_calls")
        + TOOL_CHAT
    ),
    "arguments are text": TOOL_CHAT.replace(AS_MAPPING, AS_TEXT),
    "tools are bare": (
        "{% for tool in tools or [] %}{{ tool.name ~ tool.description }}"
        f"{{{{ tool.parameters | tojson }}}}{{% endfor %}}{TOOL_CHAT.replace(SHOWN_TOOLS, '')}"
    ),
    "no tools are an empty list": "{% for tool in tools %}{{ tool | tojson }}{% endfor %}" + TURNS,
    "tools only by their names": (
        "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}" + TURNS
    ),
    "the system is heard where the user speaks last": (
        f"{{% for m in messages %}}{{% if m.role == 'user' and loop.last %}}{{{{ system }}}}"
        f"{{% endif %}}{{% if m.role != 'system' %}}{BEGIN}{AS_MAPPING}{END}{{% endif %}}"
        "{% endfor %}"
    ).replace("{{ system }}", "{{ messages[0].content if messages[0].role == 'system' }}"),
    "calls stand only in turns without content": TOOL_CHAT.replace(
        BEGIN + AS_MAPPING,
        "{% if m.role == 'assistant' and m.content is none %}<assistant>" + AS_MAPPING
        + "{% else %}" + BEGIN + "{% endif %}",
    ),
    "results are read as parts": TOOL_CHAT.replace(
        BEGIN,
        "{% if m.role == 'tool' %}{% for p in m.content %}{{ loop.index }}{{ p.text }}{% endfor %}"
        "{% else %}" + BEGIN + "{% endif %}",
    ),
}
HISTORIES: dict[str, list[Message]] = {
    "a question": [USER],
    "a system message": [SYSTEM, USER],
    "an agent": AGENT,
    "an agent at work": [SYSTEM, USER, CALLS, RESULT],
    "an agent interrupted": [USER, CALLS, RESULT, LAST],
    "words with a call": [USER, WORDED, RESULT, ASSISTANT, LAST],
    "a late system message": [USER, ASSISTANT, LATE, AGAIN],
    "a system message at the end": [SYSTEM, USER, ASSISTANT, LATE],
    "nothing but a system message": [SYSTEM],
    "words before a call": [USER, ASSISTANT, CALLS, RESULT],
    "neighbours": [SYSTEM, LATE, USER, AGAIN, ASSISTANT],
}


def words(messages: Sequence[Message]) -> list[str]:
    """Every word of a chat, in its order."""
    shown = list[str]()
    for message in messages:
        shown += [message["content"]] if message["content"] else []
        shown += [f'"name": "{call.name}", "arguments": {call.arguments}'
                  for call in message.get("tool_calls", ())]  # fmt: skip
    return shown


@pytest.mark.parametrize("tools", [(), BOTH], ids=["bare", "with tools"])
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("trait", TRAITS)
def test_every_word_is_shown_in_its_order(
    trait: str, history: str, tools: Sequence[Tool]
) -> None:
    text = renderer(TRAITS[trait]).render(HISTORIES[history], tools)
    places = [text.index(word) for word in words(HISTORIES[history])]
    is_moved = "speaks last" in trait and HISTORIES[history][0] is SYSTEM
    assert places[is_moved:] == sorted(places[is_moved:])
    assert "'" not in text.replace("'s", "")  # nothing is written as Python would
    for tool in tools:
        assert tool.name in text
        assert tool.description in text
        assert json.dumps(tool.parameters) in text


def test_content_is_parts_only_where_a_template_reads_parts_only() -> None:
    assert renderer(PARTS).render([SYSTEM, USER]) == "System: Be brief.User: How is it in Oslo?"
    both = "{% for m in messages %}{% if m.content is string %}text {{ m.content }}" \
           "{% else %}parts {{ m.content[0].text }}{% endif %};{% endfor %}"  # fmt: skip
    assert renderer(both).render([USER]) == theirs(both, [USER]) == "text How is it in Oslo?;"


def test_parts_are_given_to_the_roles_that_are_read_so() -> None:
    source = "{% for m in messages %}{{ m.content[0].text if m.role == 'user' else m.content }};" \
             "{% endfor %}"  # fmt: skip
    assert renderer(source).render([SYSTEM, USER]) == "Be brief.;How is it in Oslo?;"


def test_a_refused_system_message_begins_the_users_first_turn() -> None:
    text = renderer(NO_SYSTEM + TURNS).render([SYSTEM, USER, ASSISTANT, AGAIN])
    assert text.startswith("<user>Be brief.\n\nHow is it in Oslo?</user><assistant>")


def test_a_result_that_becomes_a_users_turn_joins_the_next_where_roles_alternate() -> None:
    text = renderer(ALTERNATE + TURNS).render([USER, CALLS, RESULT, LAST])
    assert text.endswith("<user><tool_response>\n4 °C\n</tool_response>\n\nThanks.</user>")
    assert text.count("<user>") == 2


def test_calls_and_results_stay_the_template_s_own_where_the_user_breaks_in() -> None:
    trait = "tools, calls and results are shown, roles alternate"
    text = renderer(TRAITS[trait]).render([USER, CALLS, RESULT, LAST])
    assert "<tool>4 °C</tool><assistant></assistant><user>Thanks.</user>" in text


def test_calls_come_after_words_in_a_turn_of_their_own_where_they_are_dropped_beside_them() -> None:
    trait = "calls stand only in turns without content"
    text = renderer(TRAITS[trait]).render([USER, WORDED, RESULT])
    assert "<assistant>Let me look.</assistant><assistant><tool_call>" in text


def test_arguments_cut_off_are_the_text_that_they_are() -> None:
    cut = ToolCall("a1b2c3d4e", "get_weather", '{"city": "Os')
    assert '{"city": "Os' in renderer(TOOL_CHAT.replace(AS_MAPPING, AS_TEXT)).render(
        [USER, {**CALLS, "tool_calls": (cut,)}, RESULT]
    )


NINE = "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}" \
       "{{ raise_exception('nine letters') }}{% endif %}({{ c.id }}){% endfor %}" \
       "{% if m.role == 'tool' %}({{ m.tool_call_id }}){% endif %}{% endfor %}"  # fmt: skip


def test_identities_of_other_providers_become_nine_letters_where_these_are_asked_for() -> None:
    call_id = "call_wQ0VwXTGnLIAyHRBIYtTkY2S"
    call = ToolCall(call_id, OSLO.name, OSLO.arguments)
    chat = [USER, {**CALLS, "tool_calls": (call,)}, {**RESULT, "tool_call_id": call_id}]
    text = renderer(NINE + TOOL_CHAT).render(chat)
    short = text[1:10]
    assert short.isalnum()
    assert text.startswith(f"({short})({short})")
    assert call_id in renderer(NINE.replace("!= 9", "< 9") + TOOL_CHAT).render(chat)
    assert "(a1b2c3d4e)(a1b2c3d4e)" in renderer(NINE + TOOL_CHAT).render(AGENT)


def test_a_result_is_named_after_its_call_where_the_template_asks_for_a_name() -> None:
    source = TOOL_CHAT + "{% for m in messages if m.role == 'tool' %}{{ '#' + m.name }}{% endfor %}"
    nameless = {key: value for key, value in RESULT.items() if key != "name"}
    assert renderer(source).render([USER, CALLS, nameless]).endswith("#get_weather")


def test_calls_at_once_are_one_after_the_other_where_one_is_asked_for() -> None:
    source = "{% for m in messages if m.tool_calls and m.tool_calls | length > 1 %}" \
             "{{ raise_exception('one at a time') }}{% endfor %}" + TOOL_CHAT  # fmt: skip
    calls = {**CALLS, "tool_calls": (OSLO, CLOCK)}
    clock = {**RESULT, "content": "noon", "tool_call_id": CLOCK.id, "name": CLOCK.name}
    text = renderer(source).render([USER, calls, RESULT, clock, LAST], [WEATHER, NOW])
    one_by_one = [{**CALLS, "tool_calls": (OSLO,)}, RESULT, {**CALLS, "tool_calls": (CLOCK,)}]
    assert text == theirs(source, [USER, *one_by_one, clock, LAST], [WEATHER, NOW])


# What cannot be shown


@pytest.mark.parametrize(
    ("source", "messages", "role"),
    [
        ("You are a model.", [USER], "0, of the role 'user'"),
        ("{{ messages[-1].content }}", [USER, ASSISTANT, AGAIN], "1, of the role 'assistant'"),
        ("{{ messages[-1].content }}", [USER, AGAIN], "0, of the role 'user'"),
        (
            f"{{% for m in messages if m.role == 'user' %}}{TURN}{{% endfor %}}",
            [USER, ASSISTANT, AGAIN], "1, of the role 'assistant'",
        ),
    ],
)  # fmt: skip
def test_what_is_shown_in_no_form_is_refused_by_name(
    source: str, messages: list[Message], role: str
) -> None:
    with pytest.raises(RequestError, match=f"template of it drops message {role}; leave it out"):
        renderer(source).render(messages)


def test_words_that_a_template_changes_are_not_taken_for_dropped() -> None:
    source = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    assert renderer(source).render([USER, ASSISTANT]) == "HOW IS IT IN OSLO?WHICH ONE?"
    source = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}"
    assert renderer(source).render([{**USER, "content": 'He said "no".'}]) == r'"He said \"no\"."'


def test_thoughts_and_words_beside_calls_may_be_left_out_by_a_template() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls %}" + AS_MAPPING + "{% else %}"
        "{{ m.content.split('</think>')[-1] }}{% endif %}{% endfor %}"
    )
    chat = [USER, {**ASSISTANT, "content": "<think>Hm.</think>Well."}, AGAIN, WORDED, RESULT]
    assert renderer(source).render(chat) == theirs(source, chat)


def test_the_template_is_planted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planted, rendered = renderer(TOOL_CHAT), list[int]()
    write = Renderer._filled

    def counted(self: Renderer, *args: object, **kwargs: object) -> str:
        rendered.append(1)
        return write(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Renderer, "_filled", counted)
    planted.render(AGENT, BOTH)
    assert len(rendered) < 30
    rendered.clear()
    planted.render(AGENT, BOTH)
    assert len(rendered) == 1


def test_a_template_may_look_at_the_whole_chat_at_each_message() -> None:
    every = "{% for other in messages %}{% endfor %}"
    source = f"{{% for m in messages %}}{every}{TURN}{{% endfor %}}"
    chat = [USER, ASSISTANT] * 400
    assert renderer(source).render(chat) == theirs(source, chat)


def test_a_template_that_does_not_end_is_refused_at_once() -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ModelError, match="it takes more than 200002 steps for 1 messages; send f"):
        Renderer(endless, cast(Vocab, TwoTokens()), "it").render([USER])
