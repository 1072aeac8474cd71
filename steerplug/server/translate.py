"""From a client's request to what a session is asked: messages and settings.

What cannot be obeyed (an image, a field of `fields`) is refused, never left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from steerplug.chat.messages import to_messages
from steerplug.chat.tool import AUTO, NONE, REQUIRED, Tool, Tools
from steerplug.chat.values import THOUGHTS, thoughts_of
from steerplug.engine.constraint import Grammar
from steerplug.errors import RequestError
from steerplug.server import fields
from steerplug.server.config import Limits
from steerplug.server.continuing import goes_on
from steerplug.server.errors import Refused
from steerplug.server.format import asked_format, size
from steerplug.server.requests import Body, ChatBody, CompletionBody, Message, ToolChoice
from steerplug.server.thinking import asked_thinking
from steerplug.session import Settings, Text

_SEEDS = 2**32 - 1
_ROLES = {"developer": "system", "function": "tool"}
_TEXTS = ("text", "input_text", "output_text", "refusal")
_RESERVED = (AUTO, NONE, REQUIRED)


def chat_messages(body: ChatBody, limits: Limits) -> list[dict[str, Any]]:
    """Return a chat as a session reads it.

    Raises:
        Refused: a message is not text, or the chat is too long.
    """
    for i, message in enumerate(body.messages):
        fields.check(message, fields.IGNORED_IN_MESSAGES, f"message {i}: ", "messages")
    try:
        messages = to_messages([_openai(message) for message in body.messages])
    except RequestError as error:
        raise Refused(str(error), param="messages") from None
    n_text = sum(len(message["content"]) + len(thoughts_of(message)) for message in messages)
    calls = (call for message in messages for call in message.get("tool_calls", ()))
    check_length(n_text + sum(len(call.arguments) for call in calls), limits)
    return messages


def prompts(body: CompletionBody, limits: Limits, n_vocab: int) -> list[Text]:
    """Return the texts to go on with, for a model that knows so many tokens.

    Raises:
        Refused: one is empty or they are too long, or more is asked for than going on.
    """
    if body.suffix:
        raise Refused("this model cannot write towards a suffix; leave it out.", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Refused("best_of is not served; ask for n replies instead.", param="best_of")
    texts = _texts(body.prompt)
    if not all(texts):
        raise Refused("the prompt is empty; send at least one word.", param="prompt")
    check_length(sum(map(len, texts)), limits)
    for text in texts:
        if not isinstance(text, str):
            check_tokens(text, n_vocab, "the prompt", "prompt")
    return texts


def check_tokens(tokens: Sequence[int], n_vocab: int, where: str, param: str) -> None:
    """Refuse numbers that are no tokens of the model; `where`: how errors say where they stand."""
    for token in tokens:
        if not 0 <= token < n_vocab:
            raise Refused(
                f"{where} names token {token}; this model has tokens 0 to {n_vocab - 1}.",
                param=param,
            )


def _texts(prompt: str | Sequence[int] | Sequence[Text]) -> list[Text]:
    """Return the texts of a prompt: it is one, the tokens of one, or a list of either."""
    if isinstance(prompt, str):
        return [prompt]
    texts = [text for text in prompt if not isinstance(text, int)]
    return texts or [[token for token in prompt if isinstance(token, int)]]


def chat_settings(
    body: ChatBody, limits: Limits, partition: str, *, parse_special: bool = False
) -> list[Settings]:
    """Return how to generate each of the replies to a chat.

    Raises:
        Refused: something cannot be obeyed.
    """
    if body.top_logprobs and not body.logprobs:
        raise Refused("top_logprobs needs logprobs: true.", param="top_logprobs")
    tools = _tools(body)
    variables = body.chat_template_kwargs or {}
    if (n_bytes := size(variables)) > limits.schema:
        raise Refused(
            f"chat_template_kwargs has {n_bytes} bytes; the limit is {limits.schema}.",
            param="chat_template_kwargs",
        )
    limit, thinking = body.max_completion_tokens, asked_thinking(body)
    settings = Settings(
        max_tokens=body.max_tokens if limit is None else limit,
        tools=tools,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        continue_final_message=goes_on(body),
        chat_template_kwargs=variables,
        parse_special=parse_special,
        enable_thinking=thinking.enabled,
        reasoning_effort=thinking.effort,
        thinking_budget_tokens=thinking.budget,
        tells_moved=bool(body.steering_trace),
    )
    return list(_each(body, settings, limits, partition))


def completion_settings(
    body: CompletionBody, limits: Limits, partition: str, *, parse_special: bool = False
) -> list[Settings]:
    """Return how to generate each of the replies to one prompt; errors as `chat_settings`."""
    settings = Settings(
        max_tokens=body.max_tokens, logprobs=body.logprobs, tells_end=body.logprobs is not None,
        parse_special=parse_special,
    )  # fmt: skip
    return list(_each(body, settings, limits, partition))


def _each(body: Body, settings: Settings, limits: Limits, partition: str) -> Iterator[Settings]:
    """Yield the settings of each reply; they differ in the seed."""
    fields.check(body)
    form = asked_format(body)
    schemas = [tool.parameters for tool in settings.tools.tools]
    _check_sizes([*schemas, form] if form else schemas, limits)
    biases = {int(token): bias for token, bias in (body.logit_bias or {}).items()}
    sampling = replace(body.sampling(seed=0, logit_bias=biases), seed=None)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    settings = replace(
        settings, stop=stop, format=form, timeout=limits.timeout, partition=partition
    )
    is_drawn = body.seed is None or body.seed == _SEEDS  # llama.cpp writes -1 so, without a sign
    for i in range(body.n or 1):
        seed = None if is_drawn else ((body.seed or 0) + i) % _SEEDS
        yield replace(settings, sampling=replace(sampling, seed=seed))


def _openai(message: Message) -> dict[str, Any]:
    """Return what a message says to the model, in OpenAI's shape."""
    untold = {name for name in THOUGHTS if not isinstance(getattr(message, name), str)}
    unheard = {"prefix", "partial", *untold, *(message.model_extra or ())}
    return message.model_dump(exclude_unset=True, exclude=unheard)


def _tools(body: ChatBody) -> Tools:
    for i, offered in enumerate(body.tools or ()):
        for part in (offered, offered.function):
            fields.check(part, fields.IGNORED_IN_TOOLS, f"tool {i}: ", "tools")
    tools = tuple(
        Tool(
            tool.function.name,
            tool.function.description or "",
            tool.function.parameters or {"type": "object", "properties": {}},
        )
        for tool in body.tools or ()
    )
    names = [tool.name for tool in tools]
    for name in names:
        if name in _RESERVED or names.count(name) > 1:
            raise Refused(f"the tool name `{name}` is taken; rename the tool.", param="tools")
    choice = body.tool_choice
    if isinstance(choice, ToolChoice):
        if choice.function.name not in names:
            raise Refused(
                f"tool_choice names `{choice.function.name}`, which is no tool of this request.",
                param="tool_choice",
            )
        choice = choice.function.name  # type: ignore[assignment]
    elif choice == REQUIRED and not tools:
        raise Refused("tool_choice is required, and there are no tools.", param="tool_choice")
    return Tools(tools, str(choice or AUTO), body.parallel_tool_calls)


def _check_sizes(grammars: Iterable[Grammar], limits: Limits) -> None:
    n = sum(map(size, grammars))
    if n > limits.schema:
        raise Refused(f"the schemas of this request have {n} bytes; the limit is {limits.schema}.")


def check_length(n: int, limits: Limits) -> None:
    """Refuse a text of so many characters if that is too long."""
    if n > limits.prompt:
        raise Refused(
            f"the prompt has {n} characters; the limit is {limits.prompt}. Send a shorter one.",
            code="context_length_exceeded",
        )
