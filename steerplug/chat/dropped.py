"""Which messages of a chat a template has dropped: seen in the text, for what it shows at times.

A template may show a slot in one chat and not in another, such as a system message only where the
user has the last word. What stands in the text was shown; of the rest, a template may have changed
the words, so other words are planted in their place to see whether these come through.
"""

from collections.abc import Callable, Sequence

from steerplug.chat.calls.plain import Message
from steerplug.errors import RequestError

_TOLD = ("system", "user", "tool")  # of the assistant, templates leave out thoughts and the like


def dropped(
    messages: Sequence[Message], text: str, write: Callable[[Sequence[Message]], str]
) -> list[int]:
    """Return which messages are not shown; the assistant's are not looked at.

    Args:
        messages: the chat.
        text: what the template made of it.
        write: what makes a text of a chat.
    """
    missing = [
        i for i, message in enumerate(messages)
        if message["role"] in _TOLD and message["content"].strip() not in text
    ]  # fmt: skip
    if not missing:
        return []
    other = [
        {**message, "content": _word(i)} if i in missing else message
        for i, message in enumerate(messages)
    ]
    try:
        planted = write(other).lower()
    except RequestError:  # it reads the words themselves: nothing is known
        return []
    return [i for i in missing if _word(i) not in planted]


def _word(i: int) -> str:
    return f"oystercatcher{i}x"
