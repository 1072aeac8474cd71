"""A prompt in a file: an instruction as plain text, or a chat in JSON.

Contract: UTF-8, at most 256 kB. A file that begins like a list of objects (`[{`, `[]`) or like an
object (`{"`, `{}`), or is called `.json`, is a chat: a list of messages with `role` and `content`,
or an object with that list as `messages`, as in a request to OpenAI. Anything else is an
instruction, without the empty lines around it.
"""

import json
import re

from steerplug.errors import PresetError
from steerplug.files.yaml_file import MAX_BYTES
from steerplug.preset.from_prompt import Message

_CHAT = re.compile(r'\s*(\[\s*[{\]]|\{\s*["}])')


def read_prompt(content: bytes, source: str) -> list[Message]:
    """Return the messages of a prompt.

    Args:
        content: the file, or at least `MAX_BYTES + 1` bytes of it.
        source: what messages call the file.

    Raises:
        PresetError: the content breaks a rule of this module's contract, or is empty.
    """
    if len(content) > MAX_BYTES:
        raise PresetError(
            f"{source} is larger than {MAX_BYTES // 1024} kB; cut it down to the instruction and "
            "the best examples."
        )
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise PresetError(
            f"{source} is not UTF-8 text (byte {error.start}); save it again as UTF-8."
        ) from None
    if not text.strip():
        raise PresetError(f"{source} is empty; write the instruction into it.")
    if source.lower().endswith(".json") or _CHAT.match(text):
        return _chat(text, source)
    return [{"role": "system", "content": text.strip("\n")}]


def _chat(text: str, source: str) -> list[Message]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise PresetError(
            f"{source}, line {error.lineno}: this begins like a chat in JSON and is not valid "
            f"({error.msg}); correct it, or make an instruction that looks like JSON the content "
            "of a system message."
        ) from None
    except (ValueError, RecursionError):  # a number of endless digits, endless brackets
        raise PresetError(f"{source} is no chat in JSON; give a list of messages.") from None
    tools = [key for key in ("tools", "functions") if isinstance(data, dict) and data.get(key)]
    if tools:
        raise PresetError(
            f"{source} offers `{tools[0]}`, which a preset cannot replace; keep the messages only."
        )
    messages = data.get("messages") if isinstance(data, dict) else data
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise PresetError(
            f'{source} is no chat; write [{{"role": "system", "content": "..."}}, ...], or an '
            "object with such a list as `messages`."
        )
    return messages
