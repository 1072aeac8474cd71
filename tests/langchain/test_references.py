"""Schemas that refer to themselves stay whole on their way through LangChain."""

import json
from typing import Any, TypedDict

import pytest
from jsonschema import Draft202012Validator
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.tools import StructuredTool
from langchain_core.tools import tool as as_tool
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as OldBaseModel
from pydantic.v1 import Field as OldField

from steerplug import ChatSteerplug
from steerplug.chat.calls.form import TAGGED
from steerplug.chat.calls.grammar import reply_grammar
from steerplug.chat.calls.plain import written
from steerplug.chat.tool import ToolCall, Tools
from steerplug.engine.constraint import Constraint
from steerplug.engine.model import Model
from steerplug.langchain.call import Call

pytestmark = pytest.mark.usefixtures("folder")


class Tree(BaseModel):
    """A tree."""

    name: str = Field(max_length=3)
    branches: list["Tree"] = Field(max_length=2)


class OldTree(OldBaseModel):
    """A tree."""

    name: str = OldField(max_length=3)
    branches: "list[OldTree]"


OldTree.update_forward_refs()


class TreeDict(TypedDict):
    """A tree."""

    branches: list["TreeDict"]


def plant(tree: Tree) -> str:
    """Plant a tree."""
    return tree.name


def from_json(properties: dict[str, Any]) -> StructuredTool:
    """A tool as servers of tools describe it."""
    schema = {"title": "grow", "type": "object", "properties": properties, "required": ["name"]}
    return StructuredTool.from_function(plant, name="grow", description="Grow.", args_schema=schema)


SELF = {"$ref": "#"}
GROW = from_json({"name": {"type": "string", "maxLength": 3},
                  "branches": {"type": "array", "maxItems": 2, "items": SELF}})  # fmt: skip


def chat(**fields: Any) -> ChatSteerplug:
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 80, "n_ctx": 1024, "n_threads": 1}
    return ChatSteerplug(**settings | fields)


@pytest.mark.parametrize("form", [Tree, OldTree, plant, as_tool(plant), GROW])
@pytest.mark.parametrize("strict", [None, True])
def test_tools_keep_what_refers_to_itself(form: Any, strict: bool | None, model: Model) -> None:
    bound = chat().bind_tools([form], strict=strict)
    (tool,) = Call.of(chat(), bound.kwargs).settings().tools.tools
    assert tool.parameters["type"] == "object"
    assert not {"title", "description"} & tool.parameters.keys()
    grammar, _ = reply_grammar(TAGGED, Tools((tool,), tool.name), None, model.vocab)
    assert grammar is not None
    leaf = {"name": "b", "branches": []}
    for branches, is_tree in (
        ([], True), ([leaf], True), ([{"name": "c", "branches": [leaf]}], True), ([7], False),
        ([{"name": "c", "branches": [{**leaf, "name": "long"}]}], False),
    ):  # fmt: skip
        said = {"name": "a", "branches": branches}
        arguments = {"tree": said} if tool.name == "plant" else said
        assert Draft202012Validator(tool.parameters).is_valid(arguments) == is_tree
        call = written([ToolCall("", tool.name, json.dumps(arguments))], TAGGED)
        held = Constraint(model.vocab, grammar)
        assert held.replay(model.vocab.tokenize(call, special=True)) == is_tree


def test_tools_that_refer_to_others_but_not_to_themselves_are_written_out() -> None:
    class Garden(BaseModel):
        """A garden."""

        first: "Leaf"
        second: "Leaf"

    class Leaf(BaseModel):
        green: bool

    Garden.model_rebuild()
    (tool,) = Call.of(chat(), chat().bind_tools([Garden]).kwargs).settings().tools.tools
    assert "$" not in json.dumps(tool.parameters)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_follows_what_refers_to_itself(method: str) -> None:
    model = chat(temperature=1.5, seed=4).with_structured_output(Tree, method=method)
    tree = model.invoke("Plant a tree with two branches, which have branches.")
    assert isinstance(tree, Tree)
    assert tree.branches


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        (TreeDict, "TreeDict'> refers to itself, as only a pydantic class or a JSON Schema may"),
        (from_json({"name": {"$ref": "#/$defs/nowhere"}}), "'#/$defs/nowhere' not found"),
    ],
)
def test_what_cannot_be_kept_is_refused(tool: Any, sentence: str) -> None:
    with pytest.raises(ModelInvalidRequestError) as refusal:
        chat().bind_tools([tool])
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
