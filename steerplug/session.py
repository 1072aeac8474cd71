"""Model + steering + chat -> a stream of events: the one thing the doors talk to.

A session holds a loaded model and turns words into values: the text of a mix into steering (built
and cached when first used), messages into tokens. Steering belongs to each call. Every reply ends
with a receipt of what was applied.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steerplug.build import Built, build_preset
from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import EngineError, RequestError
from steerplug.fit.progress import Report, silent
from steerplug.model_file import find_model
from steerplug.preset import Preset
from steerplug.receipt import Ingested, Receipt, Reply, Usage
from steerplug.resolve import Resolver, SteeringWords
from steerplug.steering.value import Mix
from steerplug.store import Store


@dataclass(frozen=True)
class Settings:
    """How to generate, besides steering."""

    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


class Session:
    """A loaded model that answers, each call with its own steering.

    Args:
        model: a path, `hf:org/repo/file.gguf`, or an alias such as `smollm2`.
        n_ctx: how many tokens a conversation may have.
        n_threads: threads; default: the processors this process may use.
        store: where built steering is kept; default: the user's cache.
        report: told how far a first build is.

    Raises:
        ModelNotFound, ModelError: the model is not there or cannot be steered.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        store: Store | None = None,
        report: Report = silent,
    ) -> None:
        self.model = Model(find_model(str(model)))
        self.engine = Engine(self.model, n_ctx=n_ctx, n_threads=n_threads)
        self.template = ChatTemplate(self.model.chat_template, self.model.vocab, self.model.name)
        self.store = store or Store()
        self.report = report
        self._built: dict[tuple[str, str], Built] = {}
        self._resolver = Resolver(self.model, self.build)
        self._building = threading.RLock()

    def chat(
        self,
        messages: Sequence[Message],
        steering: SteeringWords = None,
        settings: Settings | None = None,
    ) -> Reply:
        """Return the assistant's next message.

        Args:
            messages: the conversation, each with `role` and `content`.
            steering: how to steer this reply.
            settings: how to generate.

        Raises:
            SteerplugError: see `errors`; nothing is ever left out in silence.
        """
        return _last(self.stream_chat(messages, steering, settings))

    def stream_chat(
        self,
        messages: Sequence[Message],
        steering: SteeringWords = None,
        settings: Settings | None = None,
    ) -> Iterator[Piece | Reply]:
        """Yield the pieces of the assistant's next message, and the reply as the last item."""
        return self._stream(self.template.prompt(messages), steering, settings)

    def complete(
        self, text: str, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Reply:
        """Return what the model writes after `text`, without any chat template."""
        return _last(self.stream_complete(text, steering, settings))

    def stream_complete(
        self, text: str, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Iterator[Piece | Reply]:
        """Yield the pieces of a continuation of `text`, and the reply as the last item."""
        if not text:
            raise RequestError("the prompt is empty; send at least one word.")
        vocab = self.model.vocab
        bos = (vocab.bos,) if vocab.adds_bos else ()
        prompt = Prompt((*bos, *vocab.tokenize(text)), has_bos=bool(bos))
        return self._stream(prompt, steering, settings)

    def _stream(
        self, prompt: Prompt, steering: SteeringWords, settings: Settings | None
    ) -> Iterator[Piece | Reply]:
        settings = settings or Settings()
        mix, ingredients = self.steering(steering)
        grammar = ANY_JSON if any(said.format == "json" for said in ingredients) else None
        request = Request(
            prompt, mix, settings.sampling, settings.stop, settings.max_tokens, grammar
        )
        self.engine.check(request)
        return self._events(request, ingredients)

    def _events(
        self, request: Request, ingredients: tuple[Ingested, ...]
    ) -> Iterator[Piece | Reply]:
        progress, text = Progress(), []
        for piece in self.engine.generate(request, progress):
            text.append(piece.text)
            yield piece
        yield _reply("".join(text), request, progress, ingredients)

    def steering(self, words: SteeringWords) -> tuple[Mix, tuple[Ingested, ...]]:
        """Return a mix, and what a receipt says of it; presets are built when first used.

        Raises:
            PresetError, StrengthError, FitError, SteeringError, StoreError: see `errors`.
        """
        return self._resolver.mix(words)

    def build(self, preset: Preset) -> Built:
        """Return the steering of a preset for this model; built once, then kept."""
        key = (preset.name, preset.digest)
        with self._building:
            if key not in self._built:
                self._built[key] = build_preset(
                    preset, self.engine, store=self.store, report=self.report
                )
            return self._built[key]

    def close(self) -> None:
        """Free the model."""
        self.engine.close()
        self.model.close()


def _reply(
    text: str, request: Request, progress: Progress, ingredients: tuple[Ingested, ...]
) -> Reply:
    steered = bool(request.mix)
    if steered and not progress.n_steered:
        raise EngineError(
            "steering was asked for and acted on no token; run `steerplug doctor -m MODEL`."
        )
    receipt = Receipt(
        ingredients if steered else (),
        request.mix.digest if steered else "",
        progress.n_steered,
        progress.moved / progress.n_moved if progress.n_moved else 0.0,
    )
    return Reply(
        text,
        progress.finish_reason or "stop",
        Usage(progress.n_prompt, progress.n_generated, progress.n_cached),
        receipt,
        progress.seed or 0,
        progress.seconds,
        progress.seconds_to_first,
    )


def _last(events: Iterator[Piece | Reply]) -> Reply:
    *_, reply = events
    assert isinstance(reply, Reply)
    return reply

