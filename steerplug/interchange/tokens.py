"""Which tokens another tool steers where steerplug steers a scope, in its own terms and in words.

steerplug never steers the BOS that a prompt begins with, and in scope `response` no prompt but its
last token. llama.cpp adds a control vector at every token, so its logits are those of steerplug in
scope `all` on text without BOS, and nowhere else. EasySteer selects tokens:

    response  the last prompt token and all that is generated; what differs: earlier replies of a
              chat are prompt to it
    all       the prompt but for BOS, and all that is generated

hotwire-vllm steers all tokens of a request, or with `decode_only` those that are decoded one by
one, so not the last of the prompt, which decides the first of the reply.
"""

from dataclasses import dataclass

from steerplug.steering.value import Scope


@dataclass(frozen=True)
class Bos:
    """Where a model's prompts begin with BOS.

    Args:
        piece: its text; empty if the model has none.
        begins_chats: whether chats begin with it, by their template or its tokeniser.
        begins_texts: whether plain texts do.
    """

    piece: str
    begins_chats: bool
    begins_texts: bool


def selection(scope: Scope, bos: Bos) -> dict[str, object]:
    """Return the `apply` of an EasySteer spec that selects what a scope steers in a chat."""
    if scope == "response":
        return {"prompt_positions": [-1], "generation": "all"}
    skipped = {"exclude_prompt_positions": [0]} if bos.begins_chats else {}
    return {"prompt": "all", "generation": "all", **skipped}


def easysteer_differs(scope: Scope, bos: Bos) -> str:
    """Say which tokens EasySteer steers otherwise with that selection; empty if none."""
    if scope == "response":
        return "earlier replies of a chat count as prompt, and are not steered again"
    if bos.begins_chats != bos.begins_texts:
        return "the first token of plain text is left out, as BOS is in a chat"
    return ""


def decode_only(scope: Scope) -> bool:
    """Return how hotwire-vllm is told a scope."""
    return scope == "response"


def hotwire_differs(scope: Scope, bos: Bos) -> str:
    """Say which tokens hotwire-vllm steers otherwise so; empty if none."""
    if decode_only(scope):
        return (
            "the first token of a reply is the unsteered model's own, and earlier replies of a "
            "chat are not steered again, because hotwire-vllm steers no prompt or all of it"
        )
    return _bos_too(bos)


def llama_cpp_differs(scope: Scope, bos: Bos) -> str:
    """Say which tokens llama.cpp steers and steerplug does not; empty if none."""
    if scope == "response":
        return "the prompt is steered too, because llama.cpp knows no scope"
    return _bos_too(bos)


def _bos_too(bos: Bos) -> str:
    if not bos.begins_chats:
        return ""
    every = "every chat and text" if bos.begins_texts else "every chat"
    return (
        f"BOS (`{bos.piece}`), the first token of {every}, is steered too; logits are the same on "
        "text without it"
    )
