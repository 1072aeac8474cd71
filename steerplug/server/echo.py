"""Texts repeated before what follows them, with how likely each of their tokens is.

Scoring a text and going on with it are two requests to the engine. A text that is scored counts as
the model's own and is steered throughout, so that its figures are the steered model's; the reply
goes on from it as it does for whoever asks for no figures, and so says the same.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import accumulate, pairwise

from steerplug.engine.detokenizer import Detokenizer
from steerplug.engine.engine import Piece
from steerplug.engine.vocab import Vocab
from steerplug.session import Event, Session, Settings, Text
from steerplug.session.receipt import Reply, Scored
from steerplug.session.resolve import SteeringWords


def spelt(text: Text, vocab: Vocab) -> str:
    """Return a text that may have come as tokens; special ones are spelt out."""
    return text if isinstance(text, str) else "".join(_texts(text, vocab))


async def scored_first(
    session: Session, text: Text, steering: SteeringWords, settings: Settings, *, whole: bool
) -> AsyncGenerator[Event, None]:
    """Yield a text's own tokens as pieces, each as likely as it was, and then what follows it."""
    scored = await session.ascore(text, steering, settings)
    for piece in echo(text, scored, session.model.vocab):
        yield piece
    if settings.max_tokens == 0:
        yield scored.reply
        return
    async with aclosing(
        session.astream_complete(text, steering, settings, whole=whole)
    ) as events:
        async for event in events:
            if isinstance(event, Reply):  # what it found in the cache was computed for the scores
                event = replace(event, usage=replace(event.usage, cached_tokens=0))
            yield event


def echo(text: Text, scored: Scored, vocab: Vocab) -> list[Piece]:
    """Return the pieces of a text, which together are the text itself.

    Some vocabularies put a space before a text: it is in their first token and not in the text.
    """
    words, whole = _texts(scored.tokens, vocab), spelt(text, vocab)
    ends = list(accumulate(map(len, words), initial=0))
    n_before = max(ends[-1] - len(whole), 0)
    begins = [*(min(max(end - n_before, 0), len(whole)) for end in ends[:-1]), len(whole)]
    return [
        Piece(whole[begin:end], token, 0.0, logprobs)
        for (begin, end), token, logprobs in zip(
            pairwise(begins), scored.tokens, scored.logprobs, strict=True
        )
    ]


def _texts(tokens: Sequence[int], vocab: Vocab) -> list[str]:
    """Return what each token adds to the text."""
    stream = Detokenizer()
    return [stream.feed(vocab.piece(token, True)) for token in tokens]
