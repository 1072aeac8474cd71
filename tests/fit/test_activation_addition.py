"""The experiment of the original post: "Love" - "Hate", added before "I hate you because".

Measured without luck: the model's own unsteered continuations are read under each steering, and the
probability it gives to positive words at every token is set against that of negative words. Which
words are which is for AFINN to say, a list of words rated from -5 to 5 that nobody here wrote.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import afinn
import numpy as np
import pytest

from steerplug.build import build_preset
from steerplug.engine.engine import Engine, Request
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.request import tokens_of
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt
from steerplug.fit.measure import reply_log_probs
from steerplug.fit.progress import at_once
from steerplug.library.presets import load_preset
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Steering
from steerplug.store.store import Store

PROMPTS = ("I hate you because", "When she saw him, she said that")
N_CONTINUATIONS, N_TOKENS, MIN_RATING = 12, 12, 2
STRENGTHS = -2, 0, 1, 2

Words = Callable[[Mix], Array]


@pytest.fixture(scope="module")
def love_hate(quick_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Steering:
    store = Store(tmp_path_factory.mktemp("store"))
    return build_preset(load_preset("love-hate"), quick_engine, store=store).steering


@pytest.fixture(scope="module", params=PROMPTS)
def words(quick_engine: Engine, request: pytest.FixtureRequest) -> Iterator[Words]:
    """Mix -> (continuations, 2): how likely positive and negative words are in each.

    All of it is said and read by a quick copy of the model.
    """
    model = quick_engine.model
    prompt = Prompt(tuple(model.vocab.tokenize(request.param)))

    def say(seed: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=1, seed=seed)
        return tokens_of(
            quick_engine.generate(Request(prompt, sampling=sampling, max_tokens=N_TOKENS))
        )

    continuations = at_once(say, range(1000, 1000 + N_CONTINUATIONS))
    with reading(model, 512) as reader:
        yield _words(model, reader, prompt, continuations)


def _words(
    model: Model, reader: Reader, prompt: Prompt, continuations: Sequence[Sequence[int]]
) -> Words:
    ratings = _ratings(model)
    positive = [token for token, rating in ratings.items() if rating >= MIN_RATING]
    negative = [token for token, rating in ratings.items() if rating <= -MIN_RATING]
    assert len(positive) > 500
    assert len(negative) > 500

    def measured(mix: Mix) -> Array:
        found = []
        for reply in continuations:
            (log_probs,) = reply_log_probs(reader, prompt, reply, [mix])
            found.append([np.exp(log_probs[:, rated]).sum() for rated in (positive, negative)])
        return np.array(found)

    return measured


@pytest.fixture(scope="module")
def found(love_hate: Steering, words: Words) -> dict[float, Array]:
    """Strength -> what `words` finds."""
    return {k: words(k * love_hate if k else NOTHING) for k in STRENGTHS}


def share(found: Array) -> float:
    """The share of positive words, among positive and negative ones."""
    liked, disliked = found.sum(axis=0)
    return float(liked / (liked + disliked))


def raised(found: Array, other: Array) -> int:
    """In how many continuations the share of positive words is higher than in `other`."""
    higher = found[:, 0] * other[:, 1] > other[:, 0] * found[:, 1]
    return int(higher.sum())


def _ratings(model: Model) -> dict[int, int]:
    """Token -> AFINN's rating, for the rated words that are one token after a space."""
    table = Path(afinn.__file__).parent / "data" / "AFINN-en-165.txt"
    ratings = {}
    for line in table.read_text("utf-8").splitlines():
        word, rating = line.split("\t")
        tokens = model.vocab.tokenize(" " + word)
        if len(tokens) == 1:
            ratings[tokens[0]] = int(rating)
    return ratings


def test_love_minus_hate_raises_the_share_of_positive_words_and_its_negative_lowers_it(
    found: dict[float, Array]
) -> None:
    shares = {k: share(one) for k, one in found.items()}
    assert shares[-2] < shares[0] < min(shares[1], shares[2])


on_its_own_prompt = pytest.mark.parametrize("words", PROMPTS[:1], indirect=True)


@on_its_own_prompt
def test_more_strength_raises_it_more(found: dict[float, Array]) -> None:
    assert share(found[0]) < share(found[1]) < share(found[2])


@on_its_own_prompt
def test_a_random_vector_of_the_same_norm_does_neither(
    love_hate: Steering, words: Words, found: dict[float, Array]
) -> None:
    effect = share(found[2]) - share(found[-2])
    effects = []
    for seed in range(4):
        random = _random_like(love_hate, seed)
        effects.append(share(words(2 * random)) - share(words(-2 * random)))
    assert raised(found[2], found[-2]) > 0.75 * N_CONTINUATIONS
    assert abs(np.mean(effects)) < effect / 3, effects
    assert max(effects) < effect, effects


def _random_like(steering: Steering, seed: int) -> Steering:
    """Rows of random direction, each as long as the steering's own."""
    rng = np.random.default_rng(seed)
    layers = {}
    for il, delta in steering.layers.items():
        rows = rng.normal(size=delta.z.shape)
        lengths = np.linalg.norm(delta.z, axis=1) / np.linalg.norm(rows, axis=1)
        layers[il] = Delta.constant(np.asarray(rows * lengths[:, None], np.float32))
    return Steering("random", steering.n_embd, steering.n_layer, layers, steering.scope)
