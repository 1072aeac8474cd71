"""What clients may send: the requests of OpenAI's API as far as a local model can serve them.

Front ends send many fields more, which are kept beside these. A field that would change the reply,
and cannot be obeyed, is refused; `fields` has the list.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from steerplug.server.errors import Refused
from steerplug.server.fields import renamed
from steerplug.session.sampling_fields import SamplingFields

MAX_MESSAGES = 1000
MAX_REPLIES = 8

ModelName = Annotated[str, Field(max_length=2000)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Stop = Annotated[str, Field(max_length=1000)]
TokenNumber = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Schema = dict[str, Any]
Tokens = Annotated[list[StrictInt], Field(min_length=1)]


class Open(BaseModel):
    """A part of a request that keeps what else a client says, to be looked at."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, protected_namespaces=())


class FunctionCall(BaseModel):
    """What an assistant called, and with what, as JSON text."""

    name: FunctionName
    arguments: str | dict[str, Any] | None = "{}"


class CustomCall(BaseModel):
    """What an assistant called that takes a text."""

    name: FunctionName
    input: str = ""


class Call(BaseModel):
    """A call in an assistant's message."""

    id: Annotated[str, Field(max_length=200)] = ""
    type: Literal["function", "custom"] = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None

    @model_validator(mode="after")
    def _names_what_is_called(self) -> "Call":
        if getattr(self, self.type) is None:
            raise ValueError(f"a call of type {self.type} needs the key {self.type}")
        return self


class Message(Open):
    """One turn of a chat; of content in parts, only text can be read."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Any], Field(max_length=1000)] | dict[str, Any] | None = None
    name: Annotated[str, Field(max_length=200)] | None = None
    tool_calls: Annotated[list[Call], Field(max_length=100)] | None = None
    tool_call_id: Annotated[str, Field(max_length=200)] | None = None
    prefix: bool | None = None
    partial: bool | None = None
    refusal: str | None = None
    reasoning_content: Any = Field(None, description="What the assistant thought.")
    reasoning: Any = None
    thinking: Any = None
    function_call: FunctionCall | None = Field(None, description="What `tool_calls` was before.")


class Function(Open):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None


class ToolBody(Open):
    """A tool; functions are the only kind."""

    type: Literal["function"] = "function"
    function: Function


class FunctionChoice(BaseModel):
    """The name of the function that has to be called."""

    name: FunctionName


class ToolChoice(BaseModel):
    """The tool that has to be called."""

    type: Literal["function"] = "function"
    function: FunctionChoice


class NamedSchema(Open):
    """A JSON Schema as OpenAI's clients wrap it."""

    name: Annotated[str, Field(max_length=200)] | None = None
    schema_: Schema = Field(default_factory=lambda: {"type": "object"}, alias="schema")


class ResponseFormat(Open):
    """What the reply must follow; it does or is an error, whether or not `strict` is said."""

    type: Literal["text", "json_object", "json_schema", "json", "regex", "choice", "grammar"]
    json_schema: NamedSchema | None = None
    schema_: Schema | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _schema_is_there(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None and self.schema_ is None:
            raise ValueError("a response_format of type json_schema needs the key json_schema")
        return self


class StreamOptions(BaseModel):
    """What a stream tells besides the reply."""

    include_usage: bool | None = None


B = TypeVar("B", bound=BaseModel)

_OF_CHOICES = ("n", "echo", "stream_options", "include_reasoning", "steering_trace")
"""Fields that ask for what only OpenAI's list of `choices` can tell."""

_NOTHING: tuple[Any, ...] = ("", [], {})
"""What says nothing in a field that another one says."""


def read(
    kind: type[B], own: Mapping[str, Any], strays: Mapping[str, Mapping[str, Any]],
    origins: Mapping[str, str],
) -> B:  # fmt: skip
    """Return a request that came in another API's words, once it is said in these.

    Args:
        kind: what it is in these.
        own: what the other API's fields say, in these.
        strays: what the client says besides, by where: "" for the body, "options." for an object.
        origins: fields of the other API that say one of `own` and are called otherwise.

    Raises:
        RequestValidationError: it is not as it should be.
        Refused: it asks for what the other API cannot tell, or for what another field says.
    """
    said = dict(own)
    for where, stray in strays.items():
        for name, value in stray.items():
            if value is None or said.setdefault(name, value) == value or value in _NOTHING:
                continue
            place, origin = f"{where}{name}"[:80], origins.get(name, name)
            raise Refused(f"`{place}` is not read here; say it in `{origin}`.", param=place)
    for name in _OF_CHOICES:
        if said.get(name) not in (None, {}):
            raise Refused(
                f"{name} is not served here: it belongs to /v1/chat/completions and "
                "/v1/completions.",
                param=name,
            )
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems, body=said) from None


class Head(Open):
    """Which model is asked for how many replies, and how long they may be."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_REPLIES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None


class Body(SamplingFields, Head):
    """What a chat and a completion have in common."""

    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    logit_bias: Annotated[dict[TokenNumber, Bias], Field(max_length=1000)] | None = None
    steering: str | dict[str, float] | None = Field(
        None, description="How to steer: a mix in words, `none`, or the strength of each preset."
    )
    carrier: str | None = Field(
        None, description="What brings presets in: auto, steering, prompt or both."
    )
    response_format: ResponseFormat | None = None
    json_schema: Any = Field(None, description="As in llama.cpp; other formats as in `format`.")
    grammar: Any = None
    regex: Any = None
    ebnf: Any = None
    format: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None

    @model_validator(mode="before")
    @classmethod
    def _has_our_names(cls, body: Any) -> Any:
        return renamed(body) if isinstance(body, dict) else body

    @field_validator(
        "max_tokens", "max_completion_tokens", "thinking_budget_tokens",
        mode="before", check_fields=False,
    )  # fmt: skip
    @classmethod
    def _fills_the_context(cls, n: Any) -> Any:
        return None if n == -1 else n

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _reads_pairs(cls, biases: Any) -> Any:
        """Return llama.cpp's list of pairs as an object, and its false as a ban."""
        if isinstance(biases, list) and all(isinstance(b, list) and len(b) == 2 for b in biases):
            biases = {str(token): bias for token, bias in biases}
        if not isinstance(biases, dict):
            return biases
        return {token: -100.0 if bias is False else bias for token, bias in biases.items()}


class ChatBody(Body):
    """A request for the next message of a chat."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[ToolBody], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = Field(None, description="Whether to think before the answer.")
    reasoning_effort: str | None = Field(None, description="How hard to think; none: not at all.")
    thinking_budget_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Most tokens of thought, behind which the answer begins; 0: none."
    )
    think: Any = Field(None, description="As in Ollama; also `thinking` and `reasoning`.")
    thinking: Any = None
    reasoning: Any = None
    include_reasoning: bool | None = Field(
        None, description="Whether thoughts are told; false: they are thought and left out."
    )
    steering_trace: bool | None = Field(
        None, description="Whether each chunk of a stream says how strongly it was steered."
    )


class CompletionBody(Body):
    """A request to go on with texts, which may come as tokens.

    With `echo` and `logprobs` the texts are scored; see `echo`.
    """

    prompt: str | Tokens | Annotated[list[str | Tokens], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class PresetBody(BaseModel):
    """A preset by its name, and the model that it is for, where there are several."""

    name: Annotated[str, Field(max_length=200)]
    model: ModelName | None = None


class AdapterBody(BaseModel):
    """The strength of one preset among the server's defaults, by name or by number."""

    name: str | None = None
    id: Annotated[int, Field(ge=0)] | None = None
    strength: float
