"""Model + steering + chat -> a stream of events: the one thing the doors talk to.

A session holds a loaded model and turns words into values: the text of a mix into steering (built
and cached when first used), messages into tokens. Steering belongs to each call. Every reply ends
with a receipt of what was applied.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from steerplug.build import Built, build_preset
from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import EngineError, RequestError, SteeringError
from steerplug.fit.progress import Report, silent
from steerplug.library import find_preset, is_steering_file, load_preset
from steerplug.mix import Ingredient, parse_mix
from steerplug.model_file import find_model
from steerplug.preset import Preset, check_range, check_strength
from steerplug.steering.file import read_steering
from steerplug.steering.value import Mix, Steering, Term
from steerplug.store import Store

SteeringWords = str | Preset | Mix | Steering | None
"""How a caller says steering: a mix in words (`"0.8*pirate + concise"`, `"none"`), a preset (at its
default strength), a value, or None for none."""


@dataclass(frozen=True)
class Ingested:
    """One ingredient of a receipt: whose numbers, at what strength, and what it holds the reply to.

    `format` is "json" where the preset constrains the reply as well as steers it, else empty.
    """

    name: str
    version: str
    strength: float
    digest: str
    layers: tuple[int, ...]
    scope: str
    format: str = ""


@dataclass(frozen=True)
class Receipt:
    """What was applied to one reply.

    Args:
        steering: the ingredients; none if nothing was steered.
        digest: sha256 over the whole mix; empty if nothing was steered.
        tokens_steered: prompt and reply tokens that steering acted on.
        mean_moved: mean of |change of h| / |h| over steered tokens and blocks.
    """

    steering: tuple[Ingested, ...] = ()
    digest: str = ""
    tokens_steered: int = 0
    mean_moved: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply; `cached_tokens` of the prompt's were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Reply:
    """A finished reply."""

    text: str
    finish_reason: str
    usage: Usage
    receipt: Receipt
    seed: int
    seconds: float
    seconds_to_first: float

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How to generate, besides steering."""

    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


@dataclass(frozen=True)
class _Found:
    """An ingredient of a mix that has been looked up; `allowed` are its preset's min and max."""

    steering: Steering
    strength: float
    version: str = ""
    format: str = ""
    allowed: tuple[float, float] | None = None

    def plus(self, strength: float) -> "_Found":
        """Return the same at the sum of strengths, which must be within its range."""
        total = round(self.strength + strength, 9)
        if self.allowed:
            check_range(self.steering.name, total, *self.allowed)
        return replace(self, strength=total)

    def said(self) -> Ingested:
        """Return what a receipt says of it; who takes a preset away does not ask for its format."""
        said = _ingested(self.steering, self.version, self.strength)
        return replace(said, format=self.format if self.strength > 0 else "")


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
        if words is None:
            return Mix(), ()
        if isinstance(words, (Mix, Steering)):
            mix = Mix.of(words)
            self._check_geometry(mix)
            return mix, tuple(_ingested(t.steering, "", t.strength) for t in mix.terms)
        found: dict[tuple[str, str], _Found] = {}
        for one in self._found(words):
            key = one.steering.name, one.steering.digest
            found[key] = one.plus(found[key].strength) if key in found else one
        mix = Mix(tuple(Term(one.strength, one.steering) for one in found.values()))
        return mix, tuple(one.said() for one in found.values() if one.strength)

    def _found(self, words: str | Preset) -> Iterator["_Found"]:
        if isinstance(words, Preset):
            yield self._from_preset(words, Ingredient(words.name))
        else:
            yield from map(self._ingredient, parse_mix(words))

    def _ingredient(self, ingredient: Ingredient) -> "_Found":
        path = find_preset(ingredient.reference)
        if is_steering_file(path):
            return self._from_file(path, ingredient)
        preset = load_preset(ingredient.reference)
        return self._from_preset(preset, ingredient)

    def _from_preset(self, preset: Preset, ingredient: Ingredient) -> "_Found":
        check_strength(preset, ingredient.strength_at(preset.strength.default))  # before building
        built = self.build(preset)
        return _Found(
            built.steering,
            ingredient.strength_at(built.default_strength(preset)),
            preset.version,
            preset.decoding.format if preset.decoding else "",
            (preset.strength.min, preset.strength.max),
        )

    def _from_file(self, path: Path, ingredient: Ingredient) -> "_Found":
        model = self.model
        steering, identity = read_steering(path, n_embd=model.n_embd, n_layer=model.n_layer)
        if identity is None:
            return _Found(steering, ingredient.strength_at(1.0))
        if identity.architecture != model.architecture:
            raise SteeringError(
                f"{path} is for the architecture `{identity.architecture}`, and {model.name} is "
                f"`{model.architecture}`; build the preset for this model."
            )
        strength = ingredient.strength_at(identity.strength_default)
        allowed = identity.strength_min, identity.strength_max
        check_range(identity.preset, strength, *allowed)
        return _Found(steering, strength, identity.preset_version, allowed=allowed)

    def build(self, preset: Preset) -> Built:
        """Return the steering of a preset for this model; built once, then kept."""
        key = (preset.name, preset.digest)
        with self._building:
            if key not in self._built:
                self._built[key] = build_preset(
                    preset, self.engine, store=self.store, report=self.report
                )
            return self._built[key]

    def _check_geometry(self, mix: Mix) -> None:
        shape = self.model.n_embd, self.model.n_layer
        for term in mix.terms:
            if (term.steering.n_embd, term.steering.n_layer) != shape:
                raise EngineError(
                    f"`{term.steering.name}` is for a model of (n_embd, n_layer) "
                    f"{(term.steering.n_embd, term.steering.n_layer)}, and {self.model.name} has "
                    f"{shape}; build it for this model."
                )

    def close(self) -> None:
        """Free the model."""
        self.engine.close()
        self.model.close()


def _ingested(steering: Steering, version: str, strength: float) -> Ingested:
    return Ingested(
        steering.name, version, strength, steering.digest, tuple(steering.layers), steering.scope
    )


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

