"""A carrier in llama.cpp, as a user would use it: what is read and said with it in place.

    steering       rows of the batch are steered
    soft prompt    its embeddings are decoded behind the first token
    K/V prefix     its cells are restored from a file behind the first token
    LoRA           the adapter is loaded with the model
    prompt         the prompted chat; its cells on disk are restored as those of a prefix are

All go through one reader and one greedy loop, so that they differ by what carries alone.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from steerplug.benchmark.rivals.cells import Fronted
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reply_rows
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt, plan
from steerplug.fit.measure import reply_log_probs
from steerplug.steering.value import NOTHING, Array, Mix

Front = Callable[[Fronted], None]
"""Puts the first token into an empty context, and cells behind it."""


@dataclass(frozen=True)
class Carrier:
    """A carrier in a context.

    Args:
        context: of the model, or of the model with an adapter.
        first: the first token of all chats.
        mix: what is steered.
        front: what puts cells in front, if any are.
    """

    context: Fronted
    first: int
    mix: Mix = NOTHING
    front: Front | None = None

    @property
    def reader(self) -> Reader:
        """What reads in the context."""
        return self.context.reader

    def begin(self) -> None:
        """Hold what is in front, in an empty context."""
        if self.front is not None:
            self.front(self.context)
            self.context.begin(self.first)

    def log_probs(self, prompt: Prompt, reply: Sequence[int]) -> Array:
        """Return log-probabilities at the boundary and the reply's tokens, (n_rows, n_vocab)."""
        return next(reply_log_probs(self.reader, prompt, reply, [self.mix]))

    def reply(self, prompt: Prompt, n_tokens: int) -> tuple[int, ...]:
        """Return the greedy reply, of at most n_tokens."""
        reply: list[int] = []
        vocab, token = self.context.model.vocab, self.read(prompt)
        for _ in range(n_tokens):
            if vocab.ends_generation(token):
                break
            reply.append(token)
            token = self.next(prompt, reply)
        return tuple(reply)

    def read(self, prompt: Prompt) -> int:
        """Read a prompt, as far as it is not held; return the likeliest first token."""
        rows = reply_rows(prompt, (), self.mix, output_from=len(prompt.tokens) - 1)
        same = self.reader.reuse(rows[:-1])
        return self._likeliest(rows[same:])

    def next(self, prompt: Prompt, reply: Sequence[int]) -> int:
        """Read the last token of a reply so far; return the likeliest after it."""
        position = len(prompt.tokens) + len(reply) - 1
        return self._likeliest([Row(reply[-1], position, True, plan(self.mix, prompt).generated)])

    def _likeliest(self, rows: Sequence[Row]) -> int:
        (*_, last) = self.reader.decode(rows)
        return int(self.context.logits_in_place(last.end - last.begin - 1).argmax())


class Bench:
    """Contexts on one model, and on it with adapters, freed together.

    Args:
        model: the model.
        n_ctx: cells of each context.
        n_threads: threads of each.
        first: the first token of all chats.
    """

    def __init__(self, model: Model, n_ctx: int, n_threads: int, first: int) -> None:
        self._model, self._n_ctx, self._n_threads, self._first = model, n_ctx, n_threads, first
        self._at_the_end = ExitStack()
        self._plain = self._context(model)

    def steered(self, mix: Mix = NOTHING) -> Carrier:
        """Return steering, or nothing; all of them read in one context."""
        return Carrier(self._plain, self._first, mix)

    def soft(self, embeddings: Array) -> Carrier:
        """Return what has embeddings, (n, n_embd), in front."""

        def put(context: Fronted) -> None:
            context.decode([Row(self._first, 0)])
            context.put_embeddings(embeddings)

        return self._fronted(put)

    def restored(self, path: Path) -> Carrier:
        """Return what has the cells of a file in front."""
        return self._fronted(lambda context: context.load_file(path))

    def _fronted(self, front: Front) -> Carrier:
        carrier = Carrier(self._context(self._model), self._first, front=front)
        carrier.begin()
        return carrier

    def adapted(self, path: Path, scale: float = 1.0) -> Carrier:
        """Return the model with an adapter."""
        loading: Loading = replace(self._model.loading, lora=((str(path), scale),))
        model = Model(self._model.path, loading)
        self._at_the_end.callback(model.close)
        return Carrier(self._context(model), self._first)

    def written(self, path: Path, tokens: Sequence[int], front: Front | None = None) -> int:
        """Write the cells of some tokens to a file, changed by `front`; return its bytes."""
        context = self._context(self._model)
        context.reader.hold([Row(token, i) for i, token in enumerate(tokens)])
        if front is not None:
            front(context)
        context.save_file(path, tokens)
        context.close()
        return path.stat().st_size

    def _context(self, model: Model) -> Fronted:
        context = Fronted(model, n_ctx=self._n_ctx, n_threads=self._n_threads)
        self._at_the_end.callback(context.close)
        return context

    def close(self) -> None:
        """Free all contexts, and what was loaded with adapters."""
        self._at_the_end.close()
