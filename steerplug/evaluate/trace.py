"""Where in a reply a preset acts, token by token."""

from dataclasses import dataclass

from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine, Request
from steerplug.engine.sampling import Sampling
from steerplug.evaluate.replies import schema_of
from steerplug.preset import Preset
from steerplug.steering.value import Mix, Steering

TRACED_TOKENS = 48


@dataclass(frozen=True)
class Trace:
    """One steered reply.

    Args:
        question: what was asked.
        texts: the reply's tokens.
        moved: for each, how strongly the preset acted where it was chosen: the mean over steered
            blocks of |change of h| / |h|.
    """

    question: str
    texts: tuple[str, ...]
    moved: tuple[float, ...]


def trace(preset: Preset, steering: Steering | Mix, engine: Engine, question: str) -> Trace:
    """Return a greedy steered reply to a question, with how strongly each token was steered."""
    model, mix = engine.model, Mix.of(steering)
    template = ChatTemplate.of(model)
    request = Request(
        template.asked(question), mix, Sampling(temperature=0),
        max_tokens=TRACED_TOKENS, grammar=schema_of(preset, mix), thinking_budget=0,
        tells_moved=True,
    )  # fmt: skip
    pieces = [piece for piece in engine.generate(request) if piece.token is not None]
    return Trace(
        question,
        tuple(model.vocab.text([piece.token]) for piece in pieces if piece.token is not None),
        tuple(piece.moved for piece in pieces),
    )
