"""The experiment of the original post: "Love" - "Hate", added before "I hate you because".

Measured without luck: the model's own unsteered continuations are read under each steering, and the
probability it gives to positive words at every token is set against that of negative words.
"""

from collections.abc import Callable

import numpy as np
import pytest

from steerplug.build import build_preset
from steerplug.engine.cells import Cells
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Request
from steerplug.engine.model import Model
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.fit.measure import reply_log_probs
from steerplug.library import load_preset
from steerplug.steering.value import NOTHING, Delta, Mix, Steering
from steerplug.store import Store

POSITIVE = (
    "love loved loves loving beautiful wonderful happy happiness joy good great "
    "kind kindness sweet amazing nice best friend friends care caring grateful "
    "smile perfect gentle warm hope peace lovely proud dear "
)
NEGATIVE = (
    "hate hated hates hating ugly terrible sad stupid bad evil cruel "
    "mean awful horrible worst enemy disgusting angry anger fear pain lie "
    "liar liars selfish wrong hurt kill dead idiot racist lazy "
)
N_CONTINUATIONS, N_TOKENS = 12, 24

Share = Callable[[Mix], float]


@pytest.fixture(scope="module")
def love_hate(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Steering:
    engine = Engine(model, n_ctx=512)
    store = Store(tmp_path_factory.mktemp("store"))
    return build_preset(load_preset("love-hate"), engine, store=store).steering


@pytest.fixture(scope="module")
def share(model: Model) -> Share:
    """Mix -> the share of positive words, among positive and negative ones."""
    vocab = model.vocab
    prompt = Prompt(tuple(vocab.tokenize("I hate you because")))
    engine = Engine(model, n_ctx=512)
    continuations = [
        [piece.token for piece in engine.generate(
            Request(prompt, sampling=Sampling(temperature=1, seed=seed), max_tokens=N_TOKENS))
         if piece.token is not None]
        for seed in range(N_CONTINUATIONS)
    ]
    cells = Cells(Context(model, n_ctx=512))

    def ids(words: str) -> list[int]:
        spelled = [vocab.tokenize(" " + word) for word in words.split()]
        return sorted({tokens[0] for tokens in spelled if len(tokens) == 1})

    def measured(mix: Mix) -> float:
        positive = negative = 0.0
        for reply in continuations:
            (log_probs,) = reply_log_probs(cells, prompt, reply, [mix])
            positive += float(np.exp(log_probs[:, ids(POSITIVE)]).sum())
            negative += float(np.exp(log_probs[:, ids(NEGATIVE)]).sum())
        return positive / (positive + negative)

    return measured


def test_love_minus_hate_raises_the_share_of_positive_words_and_its_negative_lowers_it(
    love_hate: Steering, share: Share
) -> None:
    shares = [share(k * love_hate) for k in (-2, -1, -0.5)]
    shares += [share(NOTHING)] + [share(k * love_hate) for k in (0.5, 1, 2)]
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] > 0.1


def test_a_random_vector_of_the_same_norm_does_neither(love_hate: Steering, share: Share) -> None:
    effect = share(1 * love_hate) - share(-love_hate)
    effects = []
    for seed in range(4):
        random = _random_like(love_hate, seed)
        effects.append(share(1 * random) - share(-random))
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
