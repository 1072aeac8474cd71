"""What a message's content says: its text, and the calls that stand among it.

Contract, for content that is a list of blocks::

    any block with text                       its text, by whatever name the provider calls it
    of the assistant: thoughts                left out of the text, and found by `thoughts_in`
    of the assistant: traces of tools that    left out
      the provider ran
    of the assistant: calls                   left out of the text, and found by `calls_in`
    of the assistant: a refusal               its text where the message says nothing else
    of a tool: data                           its JSON
    images, sound, files, all else            refused by name
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerplug.chat.encoding import json_text
from steerplug.errors import RequestError

_CALLS = ("tool_call", "tool_use", "function_call", "custom_tool_call", "invalid_tool_call")
_MEDIA = (
    "image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "file",
    "input_file", "media", "document", "inline_data", "file_data",
)  # fmt: skip
_THOUGHT = ("reasoning", "thinking", "redacted_thinking", "reasoning_content", "thought")
_TEXTS_OF_THOUGHTS = ("reasoning", "thinking", "reasoning_content", "text", "summary", "content")
_REFUSAL = "refusal"


def text_of(content: object, role: str, i: int) -> str:
    """Return the text of a message's content.

    Args:
        content: a text, blocks, or nothing; of a tool, any value.
        role: who says it.
        i: which message it is.

    Raises:
        RequestError: it holds what a text model cannot read.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if role == "tool" and not _is_blocks(content):
        return json_text(content, f"the content of message {i}")
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise RequestError(f"message {i} has {type(content).__name__} as content; send text.")
    blocks = [_unwrapped(block) for block in content]
    text = "".join(_text(block, role, i) for block in blocks)
    return text or "".join(str(block.get(_REFUSAL) or "") for block in _mappings(blocks))


def calls_in(content: object) -> Iterator[Mapping[str, Any]]:
    """Yield the calls that stand in an assistant's content as blocks of their own."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        blocks = map(_unwrapped, content)
        yield from (block for block in _mappings(blocks) if block.get("type") in _CALLS)


def thoughts_in(content: object) -> str:
    """Return the thoughts that stand in an assistant's content as blocks of their own."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return ""
    blocks = _mappings(map(_unwrapped, content))
    return "\n\n".join(filter(None, (_thought(block) for block in blocks)))


def _thought(block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    if block.get("thought") is True:
        return _text_in(block.get("text"))
    return _text_in(block) if kind in _THOUGHT else ""


def _text_in(value: object) -> str:
    """Return the text of a thought, wherever its provider keeps it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        told = (_text_in(value.get(key)) for key in _TEXTS_OF_THOUGHTS)
        return next(filter(None, told), "")
    if isinstance(value, Sequence):
        return "\n\n".join(filter(None, map(_text_in, value)))
    return ""


def _is_blocks(content: object) -> bool:
    """Whether what a tool returned is a list of blocks, and not data of its own."""
    return isinstance(content, list | tuple) and all(
        isinstance(block.get("type") if isinstance(block, Mapping) else block, str)
        for block in content
    )


def _unwrapped(block: object) -> object:
    """Return what a block wraps: one that is not LangChain's own, or a document that is text."""
    if not isinstance(block, Mapping):
        return block
    source = block.get("source")
    if block.get("type") == "non_standard":
        return block.get("value")
    if block.get("type") == "document" and isinstance(source, Mapping) and "data" in source:
        return {"type": "text", "text": source["data"]} if source.get("type") == "text" else block
    return block


def _mappings(blocks: Any) -> Iterator[Mapping[str, Any]]:
    yield from (block for block in blocks if isinstance(block, Mapping))


def _text(block: object, role: str, i: int) -> str:
    if isinstance(block, str):
        return block
    if not isinstance(block, Mapping):
        raise RequestError(f"message {i} holds {repr(block)[:80]} as a block; send text.")
    kind = block.get("type")
    if kind in _MEDIA and not (role == "tool" and "text" in block):
        raise _unread(kind, i)
    if role == "assistant":
        return _said_by_assistant(block, kind)
    text = block.get("text")
    if isinstance(text, str) or (kind == "text" and text is None):
        return text or ""
    if role == "tool":
        return json_text(block, f"the content of message {i}")
    raise _unread(kind, i)


def _said_by_assistant(block: Mapping[str, Any], kind: object) -> str:
    """Return the text of a block; that of unknown ones may stand under their own name."""
    if kind in _CALLS or kind in _THOUGHT or kind == _REFUSAL or block.get("thought") is True:
        return ""
    text = block.get("text", block.get(str(kind)))
    return text if isinstance(text, str) else ""


def _unread(kind: object, i: int) -> RequestError:
    return RequestError(
        f"message {i} holds a block of type {str(kind)[:40]!r}; this model reads text only, "
        "so send in words what it shows."
    )
