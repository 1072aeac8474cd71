"""Tool calls as text: the forms of templates, the grammar of each, and reading them back."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.chat.calls.answers import ways
from steerplug.chat.calls.form import BARE, FUNCTION, LISTED, TAGGED, Form
from steerplug.chat.calls.grammar import check_tools, reply_grammar, usable
from steerplug.chat.calls.plain import written
from steerplug.chat.calls.stream import CallStream
from steerplug.chat.template import ChatTemplate, Message
from steerplug.chat.tool import CallPiece, Tool, ToolCall, Tools
from steerplug.engine.call_marks import CallMarks, Turn, Way
from steerplug.engine.constraint import Choice, Constraint, Grammar, Lark, Regex
from steerplug.engine.model import Model
from steerplug.engine.openings import Mark
from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.engine.thoughts import Thinking
from steerplug.errors import RequestError
from tests.helpers.families import (
    BOTH,
    CLOCK,
    COUNTED,
    FAMILIES,
    LLAMA,
    NAMED,
    NOW,
    OSLO,
    WEATHER,
    template,
)

EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EVERY_FORM = pytest.mark.parametrize("form", [TAGGED, BARE, LISTED, FUNCTION, NAMED, COUNTED])


def used(*calls: ToolCall, content: str = "") -> list[Message]:
    """A chat in which the assistant called tools and was answered."""
    return [
        {"role": "user", "content": "How is it in Oslo?"},
        {"role": "assistant", "content": content, "tool_calls": calls},
        *({"role": "tool", "content": "4 °C", "tool_call_id": call.id} for call in calls),
    ]


# Templates


@EVERY_FAMILY
def test_tools_calls_and_results_are_shown(family: str, model: Model) -> None:
    chatty = template(family, model)
    text = chatty.render(used(OSLO), [WEATHER])
    assert "The weather in a city." in text
    assert text.index("The weather") < text.index("How is it") < text.index('"Oslo"')
    assert '"minimum": 1' in text
    assert text.index('"Oslo"') < text.index("4 °C")
    if family != "Mistral":  # it also tells the id
        assert written([OSLO], chatty.form) in text


def test_a_template_without_tools_is_told_of_them_in_the_system_message(model: Model) -> None:
    chatty = template("plain", model)
    begun = chatty.render([{"role": "system", "content": "Be kind."}, *used(OSLO)], BOTH)
    assert begun.startswith("<|im_start|>system\nBe kind.\n\nYou can call these tools:")
    assert chatty.render(used(OSLO), BOTH).startswith("<|im_start|>system\nYou can call")
    assert "<|im_start|>user\n<tool_response>\n4 °C\n</tool_response><|im_end|>" in begun
    assert "system" not in chatty.render(used(OSLO))


def test_results_one_after_the_other_are_one_turn_where_no_role_is_for_them(model: Model) -> None:
    text = template("plain", model).render(used(OSLO, CLOCK), BOTH)
    assert text.count("<|im_start|>user") == 2
    assert text.count("4 °C") == 2


@EVERY_FAMILY
def test_a_turn_with_calls_is_a_span_to_the_token_that_ends_it(family: str, model: Model) -> None:
    content = "" if family in ("Llama", "Mistral") else "Let me look."
    prompt = template(family, model).prompt(used(OSLO, content=content), BOTH)
    ((begin, end),) = prompt.responses
    said = model.vocab.text(list(prompt.tokens[begin + 1 : end]), special=True)
    assert said.startswith(content)
    assert said.endswith({"Llama": "}}", "Mistral": "]", "Ministral": "}", "Kimi": "<|calls_end|>",
                          "Functionary": "</function>"}.get(family, "</tool_call>"))  # fmt: skip
    assert model.vocab.ends_generation(prompt.tokens[end])


def test_calls_at_once_are_one_after_the_other_where_a_template_takes_single_ones(
    model: Model
) -> None:
    text = template("Llama", model).render(used(OSLO, CLOCK), BOTH)
    assert text.count("<|im_start|>ipython\n4 °C") == 2
    places = [text.index(part) for part in ('"get_weather", "para', "4 °C", '"now", "parameters')]
    assert places == sorted(places)


def test_what_the_template_refuses_is_one_sentence(model: Model) -> None:
    strict = ChatTemplate(LLAMA + "{{ raise_exception('never') }}", model.vocab, "Llama")
    with pytest.raises(RequestError, match=r"Llama refuses these messages \(never\); change"):
        strict.prompt(used(OSLO, CLOCK), BOTH)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "tool_calls": (OSLO,)}, "message 0 calls tools as user; only the assist"),
        (
            {"role": "assistant", "tool_calls": (ToolCall("1", "now", "[]"),)},
            "message 0 calls 'now' with arguments that are no JSON object",
        ),
        (
            {"role": "assistant", "tool_calls": (ToolCall("1", "now", "{"),)},
            "message 0 calls 'now' with arguments that are no JSON object",
        ),
    ],
)
def test_calls_that_are_none_are_refused(
    message: dict[str, Any], said: str, model: Model
) -> None:
    with pytest.raises(RequestError, match=said):
        template("plain", model).prompt([{"content": "", **message}])


# Grammars


def follows(grammar: Grammar | None, text: str, model: Model) -> bool:
    """Whether a text is a whole reply under a grammar."""
    assert grammar is not None
    constraint = Constraint(model.vocab, grammar)
    return constraint.replay(model.vocab.tokenize(text, special=True)) and constraint.may_end


@EVERY_FORM
def test_the_grammar_allows_calls_that_follow_their_schema_and_no_others(
    form: Form, model: Model
) -> None:
    tools = Tools(BOTH, "required", parallel=True)
    grammar, calls = reply_grammar(form, tools, None, model.vocab)
    assert calls.ways[0].then is None
    several = bool(form.again)
    assert follows(grammar, written([OSLO], form), model)
    assert follows(grammar, written([CLOCK], form), model)
    assert follows(grammar, written([OSLO, CLOCK], form), model) == several
    for name, arguments in [
        ("get_weather", "{}"), ("get_weather", '{"city": 1}'), ("nowhere", "{}"),
        ("get_weather", '{"city": "Oslo", "days": 0}'), ("now", '{"x": 1}'),
    ]:  # fmt: skip
        assert not follows(grammar, written([ToolCall("", name, arguments)], form), model)
    assert not follows(grammar, "Well.", model)


@EVERY_FORM
def test_one_call_where_calls_are_not_parallel_or_one_tool_is_asked_for(
    form: Form, model: Model
) -> None:
    for tools in (Tools(BOTH, "required"), Tools(BOTH, "now"), Tools(BOTH, "now", False)):
        grammar, _ = reply_grammar(form, tools, None, model.vocab)
        assert follows(grammar, written([CLOCK], form), model)
        assert not follows(grammar, written([CLOCK, CLOCK], form), model)
    assert not follows(grammar, written([OSLO], form), model)


@EVERY_FORM
def test_where_the_model_chooses_nothing_is_held_until_the_opening_mark(
    form: Form, model: Model
) -> None:
    grammar, calls = reply_grammar(form, Tools(BOTH), None, model.vocab)
    assert grammar is None
    assert calls.ways[0].then is not None
    assert follows(calls.ways[0].then, written([OSLO], form), model)
    assert follows(calls.ways[0].then, "Well. " + written([OSLO], form), model)
    assert not follows(calls.ways[0].then, written([OSLO], form) + "!", model)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a": 1}'),
        (Choice(("yes", "no")), "yes"),
        (Regex("[0-9]+/2"), "12/2"),
    ],
)
@EVERY_FORM
def test_a_format_and_tools_are_a_choice_of_either(
    form: Form, wanted: Grammar, text: str, model: Model
) -> None:
    grammar, calls = reply_grammar(form, Tools(BOTH), wanted, model.vocab)
    assert calls.ways[0].then is None
    assert follows(grammar, text, model)
    assert follows(grammar, written([OSLO], form), model)
    assert not follows(grammar, "Well.", model)
    grammar, calls = reply_grammar(form, Tools(BOTH, "none"), wanted, model.vocab)
    assert grammar is wanted
    assert calls.forbidden


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        (Tools((), "required"), "the choice of tools is 'required' and there are no tools"),
        (Tools((), "now"), "the choice of tools is 'now' and there are no tools"),
        (Tools(BOTH, "get_wether"), "'get_wether'; did you mean `get_weather`\\? give auto, none"),
        (Tools((NOW, WEATHER, NOW)), "two tools are named 'now'; give each its own name"),
        (Tools((Tool("a b", "", {}),)), "a tool is named 'a b'; give it 1 to 64 letters"),
        (Tools((Tool("", "", {}),)), "a tool is named ''"),
        (Tools((Tool("n" * 65, "", {}),)), "a tool is named 'nnn"),
        (Tools((Tool("auto", "", {}),)), "a tool is named 'auto'"),
        (Tools((Tool("x", "", {"type": "string"}),)), "of the tool 'x' are no JSON Schema"),
    ],
)  # fmt: skip
def test_tools_that_make_no_sense_are_refused(tools: Tools, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_tools(tools)


@pytest.mark.parametrize(
    "part", [{"type": "nope"}, {"$ref": "#/$defs/nowhere"}, {"pattern": "([a-z"}]
)
def test_a_schema_that_no_grammar_expresses_is_refused_and_its_tool_named(
    part: dict[str, Any], model: Model
) -> None:
    odd = Tool("odd", "", {"type": "object", "properties": {"x": part}, "required": ["x"]})
    for choice in ("auto", "required"):
        with pytest.raises(RequestError, match="in the tool 'odd', the JSON schema cannot be"):
            reply_grammar(TAGGED, Tools((NOW, odd), choice), None, model.vocab)


@pytest.mark.parametrize(
    "broken",
    [{"required": 5}, {"required": [[1]]}, {"required": [{}]}, {"required": True}, {"$defs": 5},
     {"properties": 5}, {"properties": {"x": {"enum": 5}}}, {"properties": {"x": {"type": 5}}},
     {"properties": {"x": {"type": "array", "items": 5}}}],
)  # fmt: skip
def test_what_is_no_schema_is_refused_and_its_tool_named(
    broken: dict[str, Any], model: Model
) -> None:
    said = {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}}
    odd = Tool("odd", "", {**said, **broken})
    for form in (TAGGED, FUNCTION):
        with pytest.raises(RequestError, match="in the tool 'odd', the JSON schema cannot be"):
            reply_grammar(form, Tools((odd,), "required"), None, model.vocab)
    with pytest.raises(RequestError, match="in the tool 'odd', the JSON schema cannot be"):
        usable(Tools((odd,)))
    assert usable(Tools((NOW, odd))).tools == (NOW,)


def test_a_tool_that_nothing_can_be_said_to_is_no_error_where_nothing_is_called() -> None:
    assert CallStream([], [Tool("odd", "", {"anyOf": []})]).calls == ()


def test_a_format_that_begins_as_a_call_does_is_refused(model: Model) -> None:
    def city(*keys: str) -> Grammar:
        return {"type": "object", "properties": {key: {"type": "string"} for key in keys},
                "required": list(keys), "additionalProperties": False}  # fmt: skip

    with pytest.raises(RequestError, match=r'this format begins with \{"name", as a call of'):
        reply_grammar(BARE, Tools(BOTH), city("name", "country"), model.vocab)
    for form, wanted in ((BARE, city("country", "name")), (BARE, {"type": "object"}),
                         (TAGGED, city("name", "country"))):  # fmt: skip
        grammar, _ = reply_grammar(form, Tools(BOTH), wanted, model.vocab)
        assert follows(grammar, '{"country": "Peru", "name": "Lima"}', model) == (form is BARE)


def test_tools_do_not_join_a_lark_grammar(model: Model) -> None:
    with pytest.raises(RequestError, match="cannot follow a Lark grammar as well"):
        reply_grammar(TAGGED, Tools(BOTH), Lark('start: "a"'), model.vocab)


# Reading


def read(form: Form, text: str, pieces: Sequence[str]) -> tuple[str, CallStream, list[CallPiece]]:
    """Read a reply in pieces; return its text, the stream, and the parts of calls."""
    stream, said, parts, seen = CallStream(ways(form, Tools())), "", list[CallPiece](), ""
    for piece in pieces:
        seen += piece
        for part in stream.feed(piece, form.opening in seen):
            if isinstance(part, str):
                said += part
            else:
                parts.append(part)
        assert text.startswith(said)
    return said + stream.finish(), stream, parts


@st.composite
def cut(draw: st.DrawFn) -> tuple[Form, str, list[ToolCall], list[str]]:
    """A reply with calls, cut into pieces anywhere."""
    form = draw(st.sampled_from([TAGGED, BARE, LISTED, FUNCTION, NAMED, COUNTED]))
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )
    objects = st.dictionaries(st.text(max_size=5), values, max_size=3)
    n = draw(st.integers(1, 3 if form.again else 1))
    calls = [ToolCall(OSLO.id, draw(st.sampled_from(["now", "get.it-1_2"])),
                      json.dumps(draw(objects), ensure_ascii=draw(st.booleans())))
             for _ in range(n)]  # fmt: skip
    before = "" if form.first else draw(st.sampled_from(["", "Let me < see <tool [TOOL.\n", "<"]))
    text = before + written(calls, form)
    cuts = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=12)))
    return form, before, calls, [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]


@settings(max_examples=150, deadline=None)
@given(cut())
def test_calls_are_read_back_however_they_are_cut(
    case: tuple[Form, str, list[ToolCall], list[str]],
) -> None:
    form, before, calls, pieces = case
    said, stream, parts = read(form, before + written(calls, form), pieces)
    assert said == before
    made = [(call.name, call.arguments) for call in calls]
    repeats = (i for i, call in enumerate(made) if call in made[:i])
    calls = calls[: next(repeats, None)]
    assert [(c.name, c.arguments) for c in stream.calls] == [(c.name, c.arguments) for c in calls]
    assert [(p.index, p.name, p.id) for p in parts if p.name] == [
        (i, call.name, call.id) for i, call in enumerate(stream.calls)
    ]
    for i, call in enumerate(stream.calls):
        assert "".join(p.arguments for p in parts if p.index == i) == call.arguments
    assert len({call.id for call in stream.calls}) == len(calls)


@EVERY_FORM
def test_a_call_that_is_cut_off_is_none(form: Form) -> None:
    text = written([OSLO], form)
    end = text.index(OSLO.arguments) + len(OSLO.arguments)
    for n in range(len(form.opening), end):
        said, stream, _ = read(form, text, list(text[:n]))
        assert (said, stream.calls) == ("", ())
    assert len(read(form, text, list(text[:end]))[1].calls) == 1


def test_what_only_begins_like_a_mark_is_text() -> None:
    said, stream, parts = read(TAGGED, "a <tool_calm> b <tool", ["a <tool_", "calm> b <", "tool"])
    assert (said, stream.calls, parts) == ("a <tool_calm> b <tool", (), [])


# Places


def marked(mark: Mark, closing: str = "") -> CallMarks:
    return CallMarks((Way(mark, closing),))


def in_call(
    calls: CallMarks, text: str, model: Model, thinking: Thinking | None = None
) -> str:
    """The tokens of a turn that stand in a call, as text: what the token before them predicts."""
    turn, inside = Turn(calls, model.vocab), list[int]()
    for token in model.vocab.tokenize(text, special=True):
        if turn.in_call:
            inside.append(token)
        turn, _ = turn.passing(token, thinking)
    return model.vocab.text(inside, special=True)


def test_a_call_is_what_stands_between_its_marks(model: Model) -> None:
    calls = marked(Mark("<tool_call>"), "</tool_call>")
    text = "See <tool_call>\n{1}\n</tool_call> and <tool_call>{2}</tool_call> end"
    assert in_call(calls, text, model) == "\n{1}\n</tool_call>{2}</tool_call>"


def test_a_mark_that_counts_only_at_the_beginning(model: Model) -> None:
    calls = marked(Mark('{"name"', first=True))
    assert in_call(calls, ' {"name": "now"}', model) == ' "now"}'  # `":` is a token
    assert in_call(calls, 'Well, {"name": "now"}', model) == ""


def test_a_mark_may_be_a_control_token(model: Model) -> None:
    calls = marked(Mark("<gh_stars>"))
    assert in_call(calls, "See <gh_stars>[1]", model) == "[1]"
    grammar, _ = reply_grammar(
        Form("<gh_stars>", "[", " ", "]"), Tools(BOTH, "required"), None, model.vocab
    )
    assert follows(grammar, "<gh_stars>[now {}]", model)


def test_what_is_thought_is_no_call(model: Model) -> None:
    thinking = Thinking(ThoughtMarks("<gh_stars>", "<file_sep>"), model.vocab)
    text = "<gh_stars>so <tool_call>1</tool_call><file_sep><tool_call>2</tool_call>"
    calls = marked(Mark("<tool_call>"), "</tool_call>")
    assert in_call(calls, text, model, thinking) == "2</tool_call>"
