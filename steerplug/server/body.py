"""What clients may send: the requests of OpenAI's API as far as a local model can serve them.

Fields nobody here knows are ignored, since front ends send many. A field that would change the
reply, and cannot be obeyed, is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_MESSAGES = 1000
MAX_REPLIES = 8

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenNumber = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Schema = dict[str, Any]


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


class Message(BaseModel):
    """One turn of a chat; of content in parts, only text can be read."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Any], Field(max_length=1000)] | dict[str, Any] | None = None
    refusal: str | None = None
    name: Annotated[str, Field(max_length=200)] | None = None
    tool_calls: Annotated[list[Call], Field(max_length=100)] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: Annotated[str, Field(max_length=200)] | None = None


class Function(BaseModel):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None


class ToolBody(BaseModel):
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


class NamedSchema(BaseModel):
    """A JSON Schema as OpenAI's clients wrap it."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(max_length=200)] | None = None
    schema_: Schema = Field(default_factory=lambda: {"type": "object"}, alias="schema")


class ResponseFormat(BaseModel):
    """What the reply must follow; it does or is an error, whether or not `strict` is said."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: Schema | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _schema_is_there(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("a response_format of type json_schema needs the key json_schema")
        return self


class StreamOptions(BaseModel):
    """What a stream tells besides the reply."""

    include_usage: bool | None = None


class Body(BaseModel):
    """What a chat and a completion have in common."""

    model_config = ConfigDict(protected_namespaces=())

    model: Annotated[str, Field(max_length=2000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_REPLIES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    logit_bias: Annotated[dict[TokenNumber, Bias], Field(max_length=1000)] | None = None
    steering: str | dict[str, float] | None = Field(
        None, description="How to steer: a mix in words, `none`, or the strength of each preset."
    )


class ChatBody(Body):
    """A request for the next message of a chat."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolBody], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    steering_trace: bool | None = Field(
        None, description="Whether each chunk of a stream says how strongly it was steered."
    )


class CompletionBody(Body):
    """A request to go on with a text."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_REPLIES)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class AdapterBody(BaseModel):
    """The strength of one preset among the server's defaults, by name or by number."""

    name: str | None = None
    id: Annotated[int, Field(ge=0)] | None = None
    strength: float
