"""Arguments of calls that are written member by member: told from planted calls, held to their
schema in that form, and read back as JSON.

The judge of what a template writes is transformers; whether arguments are valid says jsonschema.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from transformers.utils.chat_template_utils import render_jinja_template

from steerplug.chat.calls.answers import ways
from steerplug.chat.calls.form import CHANNEL, LIQUID, Form
from steerplug.chat.calls.grammar import reply_grammar
from steerplug.chat.calls.kinds import Kinds
from steerplug.chat.calls.plain import written
from steerplug.chat.calls.stream import CallStream
from steerplug.chat.promise import Promise
from steerplug.chat.template import ChatTemplate, Message
from steerplug.chat.tool import CallPiece, Tool, ToolCall, Tools
from steerplug.engine.model import Model
from steerplug.engine.sampler import Sampling
from steerplug.errors import RequestError
from steerplug.session import Session, Settings
from steerplug.session.receipt import Reply
from tests.chat.test_call_forms import ARGUMENTS, NAME, calling
from tests.chat.test_calls import follows
from tests.helpers.membered import MEMBERED

EVERY_FAMILY = pytest.mark.parametrize("family", MEMBERED)
EDIT = Tool("edit", "Edit a file.", {
    "type": "object", "required": ["path"],
    "properties": {
        "path": {"type": "string", "description": "Which."},
        "line": {"type": "integer", "minimum": 1},
        "scale": {"type": "number"},
        "all": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "counts": {"type": ["object", "null"], "additionalProperties": {"type": "integer"}},
        "mode": {"enum": ["fast", "slow", 3]},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "node": {"$ref": "#/$defs/Node"},
    },
    "$defs": {"Node": {
        "type": "object", "additionalProperties": False, "required": ["v"],
        "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}},
    }},
})  # fmt: skip
NOW = Tool("now", "The time.", {"type": "object", "properties": {}})
FREE = Tool("note", "Note anything.", {"type": "object"})
TREE = Tool("grow", "Grow a tree.", {"$ref": "#/$defs/Tree", "$defs": {"Tree": {
    "type": "object", "required": ["leaf"], "additionalProperties": {"type": "integer"},
    "properties": {"leaf": {"type": "string"}, "below": {
        "type": "array", "items": {"$ref": "#/$defs/Tree"}}}}}})  # fmt: skip
ALL = (EDIT, NOW, FREE, TREE)
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("edit", {"path": "a \"b\" 'c'\n</x> é {\\ [x]"}),
    ("edit", {"path": "", "line": 3, "scale": -1.5, "all": True, "tags": ["a", 'b, "c")'],
              "counts": {"k": 1}, "mode": "fast", "either": "5x",
              "node": {"v": 1, "next": {"v": 2}}}),
    ("edit", {"path": "12", "all": False, "counts": None, "mode": 3, "either": 7}),
    ("edit", {"path": "true", "tags": [], "mode": "slow"}),
    ("now", {}),
    ("note", {"zig": "zag"}),
    ("grow", {"leaf": "a", "below": [{"leaf": "b", "size": 2}], "age": 7}),
]  # fmt: skip
BAD: list[tuple[str, dict[str, Any]]] = [
    ("edit", {}), ("edit", {"line": 1}), ("edit", {"path": "p", "line": 1.5}),
    ("edit", {"path": "p", "line": 0}), ("edit", {"path": "p", "mode": "quick"}),
    ("edit", {"path": "p", "other": 1}), ("edit", {"path": "p", "all": "yes"}),
    ("edit", {"path": "p", "node": {"next": {"v": 1}}}), ("now", {"x": 1}), ("gone", {}),
    ("grow", {"leaf": "a", "age": "old"}), ("grow", {"leaf": "a", "below": [{"size": 2}]}),
]  # fmt: skip
ASK: list[Message] = [{"role": "user", "content": "Edit the file."}]


def form_of(family: str, model: Model) -> Form:
    return ChatTemplate(MEMBERED[family], model.vocab, family).form


def call(name: str, arguments: dict[str, Any]) -> ToolCall:
    return ToolCall("a1b2c3d4e", name, json.dumps(arguments, ensure_ascii=False))


def peers(source: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """How transformers writes a chat that ends in calls."""
    chat = [*ASK, {"role": "assistant", "content": "", "tool_calls": [
        {"id": "a1b2c3d4e", "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in calls]}]  # fmt: skip
    tools = [{"type": "function", "function": {
        "name": tool.name, "description": tool.description, "parameters": dict(tool.parameters),
    }} for tool in ALL]  # fmt: skip
    (text,), _ = render_jinja_template([chat], tools, chat_template=source)
    return str(text)


@EVERY_FAMILY
def test_calls_are_written_as_transformers_writes_them_by_the_template(
    family: str, model: Model
) -> None:
    form = form_of(family, model)
    assert form.members is not None
    text = written([call(*one) for one in GOOD], form)
    assert peers(MEMBERED[family], GOOD).endswith(f"assistant\n{text}<|im_end|>\n")


@EVERY_FAMILY
def test_the_grammar_allows_what_follows_the_schema_and_nothing_else(
    family: str, model: Model
) -> None:
    form = form_of(family, model)
    grammar, marks = reply_grammar(form, Tools(ALL, "required", True), None, model.vocab)
    for one in GOOD:
        assert follows(grammar, written([call(*one)], form), model), one
    for one in BAD:
        assert not follows(grammar, written([call(*one)], form), model), one
    text = written([call(*one) for one in GOOD], form)
    assert follows(grammar, text, model)
    assert [name for name, arguments in marks.ways[0].calls(text) if arguments is not None] == [
        name for name, _ in GOOD
    ]


@EVERY_FAMILY
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_calls_are_read_back_as_json_however_they_are_cut(
    family: str, model: Model, data: st.DataObject
) -> None:
    form, tools = form_of(family, model), Tools(ALL)
    said = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
    calls = [("edit", {"path": said, "line": 12}), *data.draw(st.permutations(GOOD))]
    calls = [one for i, one in enumerate(calls) if one not in calls[:i]]
    text = written([call(*one) for one in calls], form)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    stream, seen, parts = CallStream(ways(form, tools), ALL), "", list[str | CallPiece]()
    for piece in pieces:
        seen += piece
        parts += stream.feed(piece, form.opening in seen)
    assert [(made.name, json.loads(made.arguments)) for made in stream.calls] == calls
    streamed = [part for part in parts if isinstance(part, CallPiece)]
    assert len(streamed) == len(parts)
    for i, made in enumerate(stream.calls):
        assert "".join(p.arguments for p in streamed if p.index == i) == made.arguments


def test_a_text_streams_as_it_comes(model: Model) -> None:
    form = form_of("Qwen3-Coder", model)
    stream = CallStream(ways(form, Tools(ALL)), ALL)
    text = written([call("edit", {"path": 'x = "1"\n' * 20})], form)
    parts = [part for letter in text for part in stream.feed(letter, True)]
    assert len(parts) > 100


@EVERY_FAMILY
def test_earlier_calls_and_results_are_shown_as_the_template_has_them(
    family: str, model: Model
) -> None:
    chatty = ChatTemplate(MEMBERED[family], model.vocab, family)
    made = [call(*one) for one in GOOD[1:3]]
    text = chatty.render([
        *ASK, {"role": "assistant", "content": "", "tool_calls": made},
        *({"role": "tool", "content": "Done.", "tool_call_id": one.id} for one in made),
    ], ALL)  # fmt: skip
    assert written(made, chatty.form) in text
    assert text.count("Done.") == 2
    assert text.index('"description": "Edit a file."') < text.index("Edit the file.")


@pytest.fixture(scope="module")
def session(quick_path: Path) -> Iterator[Session]:
    session = Session(quick_path, n_ctx=1024, n_threads=1)
    yield session
    session.close()


SMALL = Tool("edit", "Edit.", {
    "type": "object", "required": ["path", "line", "all", "tags"],
    "properties": {
        "path": {"type": "string", "pattern": "^[a-z]{1,8}[.]py$"},
        "line": {"type": "integer"}, "all": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
    },
})  # fmt: skip


@pytest.mark.parametrize("family", ["Qwen3-Coder", "LFM", "Gemma"])
def test_a_call_that_has_to_come_is_valid_however_wildly_it_is_drawn_and_little_room_it_has(
    family: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    chatty = ChatTemplate(MEMBERED[family], session.model.vocab, family)
    monkeypatch.setattr(session, "template", chatty)
    wild = Sampling(temperature=1.6, top_k=0, top_p=1.0, seed=len(family))
    asked = Settings(wild, max_tokens=130, tools=Tools((SMALL,), "required"))
    *events, reply = session.stream_chat(ASK, None, asked)
    assert isinstance(reply, Reply)
    (made,) = reply.tool_calls
    assert reply.text == ""
    assert Draft202012Validator(SMALL.parameters).is_valid(json.loads(made.arguments))
    parts = [event.arguments for event in events if isinstance(event, CallPiece)]
    assert "".join(parts) == made.arguments


def test_what_no_grammar_holds_a_free_text_to_is_looked_for_in_the_finished_call() -> None:
    coded = Tool("book", "Book.", {"type": "object", "properties": {
        "code": {"type": "string", "pattern": "^[a-z]*$", "minLength": 4}}})  # fmt: skip
    made = [call("book", {"code": "abc"})]
    for choice in ("book", "required"):
        with pytest.raises(RequestError, match=r"the call of `book` breaks its schema at \$\.code"):
            Promise(None, Tools((coded,), choice), texts_are_free=True).check("", made)
    Promise(None, Tools((coded,), "book")).check("", made)  # a grammar held it to both
    Promise(None, Tools((coded,)), texts_are_free=True).check("", made)  # said in the log


def test_endless_brackets_are_a_text() -> None:
    assert Kinds().restored("[" * 3000) == "[" * 3000


# What models write beside what their template shows


def test_marks_within_a_call_may_be_control_tokens(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = calling(f"'<gh_stars>' + {NAME} + '<file_sep>' + {ARGUMENTS} + '<issue_closed>'")
    monkeypatch.setattr(session, "template", ChatTemplate(source, session.model.vocab, "it"))
    asked = Settings(Sampling(temperature=0), max_tokens=60, tools=Tools((NOW,), "now"))
    reply = session.chat(ASK, None, asked)
    assert [(made.name, made.arguments) for made in reply.tool_calls] == [("now", "{}")]


def test_the_first_mark_may_be_left_out_where_another_follows(model: Model) -> None:
    form = form_of("Qwen3-Coder", model)
    text = written([call(*GOOD[2])], form).removeprefix("<tool_call>\n")
    _, marks = reply_grammar(form, Tools(ALL), None, model.vocab)
    assert follows(marks.ways[1].then, text, model)
    stream = CallStream(ways(form, Tools(ALL)), ALL)
    assert list(stream.feed("Now. ", False)) == ["Now. "]
    list(stream.feed(text, True))
    assert [json.loads(made.arguments) for made in stream.calls] == [GOOD[2][1]]


def test_a_recipient_may_come_behind_the_channel_or_before(model: Model) -> None:
    source = calling(
        f"' to=functions.' + {NAME} + '<|channel|>commentary json<|message|>' + {ARGUMENTS}"
    )
    form = ChatTemplate(source, model.vocab, "it").form
    assert form.also == (CHANNEL,)
    for one in (form, CHANNEL):
        stream = CallStream(ways(form, Tools(ALL)), ALL)
        list(stream.feed(written([call("now", {})], one), True))
        assert [made.name for made in stream.calls] == ["now"]


def test_where_a_template_only_tells_of_tools_the_model_s_tokens_tell_the_form(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "{% if tools %}List of tools: {{ tools | tojson }}{% endif %}" + calling("''")
    assert ChatTemplate(source, model.vocab, "it").form != LIQUID
    tokenize = type(model.vocab).tokenize

    def with_marks(self: Any, text: str, *, special: bool = False) -> list[int]:
        return [1] if text == LIQUID.opening else tokenize(self, text, special=special)

    monkeypatch.setattr(type(model.vocab), "tokenize", with_marks)
    assert ChatTemplate(source, model.vocab, "it").form == LIQUID
