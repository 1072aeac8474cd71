"""What brings a preset into a reply: its steering, its prompt, or both.

    auto       steering where the preset is compiled for the model and keeps up with its prompt,
               and the prompt everywhere else, so that every preset works at the first word
    steering   the compiled file, in a bare chat
    prompt     the teacher itself: its system text before the caller's own, its example turns before
               the history
    both       the teacher's system text without its examples, and the steering

A prompt costs its tokens and has no strength but 1. Nothing is ever fitted for a request.
"""

from typing import Literal, get_args

from steerplug.errors import RequestError, nearest

Carrier = Literal["auto", "steering", "prompt", "both"]
CARRIERS: tuple[Carrier, ...] = get_args(Carrier)


def check_carrier(name: str) -> Carrier:
    """Return the carrier of that name.

    Raises:
        RequestError: there is none.
    """
    for carrier in CARRIERS:
        if name == carrier:
            return carrier
    raise RequestError(
        f"there is no carrier {name[:40]!r}{nearest(name, CARRIERS) or '.'} Carriers are "
        f"{', '.join(CARRIERS)}."
    )
