"""Drawing tokens: refusals, and llama.cpp's own chain draw for draw."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from steerplug.engine.context import Context, Row
from steerplug.engine.sampling import Sampler, Sampling
from steerplug.errors import RequestError

Logits = NDArray[np.float64]
ROW = 5


@pytest.fixture
def logits(context: Context) -> Logits:
    """Logits of one row, at row ROW of the context's last batch."""
    tokens = [1, *context.model.vocab.tokenize("She opened the door and")]
    assert len(tokens) == ROW + 1
    context.decode([Row(t, i, i == ROW) for i, t in enumerate(tokens)])
    return context.logits(ROW).astype(np.float64)


def draws(context: Context, sampling: Sampling, n: int) -> list[int]:
    sampler = Sampler(sampling, context.model.vocab.n_tokens)
    drawn = [sampler.draw(context, ROW) for _ in range(n)]
    sampler.close()
    return drawn


def hand_built(context: Context, stages: Sequence[object], n: int) -> list[int]:
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    for stage in stages:
        llama.llama_sampler_chain_add(chain, stage)
    drawn = [int(llama.llama_sampler_sample(chain, context.handle, ROW)) for _ in range(n)]
    llama.llama_sampler_free(chain)
    return drawn


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -0.1, "temperature is -0.1; choose 0.0 to 10.0."),
        ("temperature", math.nan, "temperature is nan; choose 0.0 to 10.0."),
        ("temperature", math.inf, "temperature is inf; choose 0.0 to 10.0."),
        ("temperature", "hot", "temperature is 'hot'; give a number such as 0.0."),
        ("temperature", None, "temperature is None; give a number such as 0.0."),
        ("temperature", True, "temperature is True; give a number such as 0.0."),
        ("top_k", -1, "top_k is -1; choose 0 to 1000000."),
        ("top_k", 2.5, "top_k is 2.5; give a whole number such as 0."),
        ("top_k", 2**40, f"top_k is {2**40}; choose 0 to 1000000."),
        ("top_p", 1.01, "top_p is 1.01; choose 0.0 to 1.0."),
        ("min_p", -1, "min_p is -1; choose 0.0 to 1.0."),
        ("repeat_penalty", 0, "repeat_penalty is 0; choose 0.1 to 10.0."),
        ("seed", -1, f"seed is -1; choose 0 to {2**32 - 2}."),
        ("seed", 2**32 - 1, f"seed is {2**32 - 1}; choose 0 to {2**32 - 2}."),
        ("seed", 1.0, "seed is 1.0; give a whole number such as 0."),
        ("seed", [1], "seed is [1]; give a number such as 0."),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(name: str, value: object, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Sampling(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_the_limits_themselves_are_allowed(context: Context, logits: Logits) -> None:
    for sampling in (
        Sampling(10.0, 1_000_000, 1.0, 1.0, 10.0, 2**32 - 2), Sampling(1e-6, 0, 0.0, 0.0, 0.1, 0),
    ):  # fmt: skip
        assert 0 <= draws(context, sampling, 1)[0] < len(logits)


def test_the_defaults_are_llama_cpp_s(context: Context, logits: Logits) -> None:
    assert logits.size
    stages = [
        llama.llama_sampler_init_top_k(40), llama.llama_sampler_init_top_p(0.95, 1),
        llama.llama_sampler_init_min_p(0.05, 1), llama.llama_sampler_init_temp(0.8),
        llama.llama_sampler_init_dist(17),
    ]  # fmt: skip
    drawn = draws(context, Sampling(seed=17), 60)
    assert drawn == hand_built(context, stages, 60)
    assert len(set(drawn)) > 3


def test_every_setting_equals_a_hand_built_chain_draw_for_draw(
    context: Context, logits: Logits
) -> None:
    assert logits.size
    stages = [
        llama.llama_sampler_init_penalties(len(logits), 64, 1.3, 0.0, 0.0),
        llama.llama_sampler_init_top_k(300),
        llama.llama_sampler_init_top_p(0.9, 1), llama.llama_sampler_init_min_p(0.01, 1),
        llama.llama_sampler_init_temp(1.7), llama.llama_sampler_init_dist(99),
    ]  # fmt: skip
    sampling = Sampling(1.7, 300, 0.9, 0.01, 1.3, 99)
    drawn = draws(context, sampling, 60)
    assert drawn == hand_built(context, stages, 60)
    assert drawn != draws(context, Sampling(1.7, 300, 0.9, 0.01, 1.0, 99), 60)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(
    context: Context, logits: Logits
) -> None:
    assert logits.size
    first, again, other = (draws(context, Sampling(seed=s), 40) for s in (5, 5, 6))
    assert first == again
    assert first != other


def test_no_seed_is_a_fresh_one_each_time_and_says_which() -> None:
    seeds = {Sampling().seeded().seed for _ in range(20)}
    assert len(seeds) == 20
    assert None not in seeds
    assert Sampling(seed=0).seeded().seed == 0


def test_temperature_0_takes_the_likeliest_token(context: Context, logits: Logits) -> None:
    greedy = Sampling(temperature=0, top_k=1, top_p=0.1)
    assert set(draws(context, greedy, 5)) == {int(logits.argmax())}


def test_a_repeat_penalty_moves_a_greedy_draw_away_from_what_it_has_drawn(
    context: Context, logits: Logits
) -> None:
    drawn = draws(context, Sampling(temperature=0, repeat_penalty=10.0), 4)
    assert drawn[0] == int(logits.argmax())
    assert drawn[1] != drawn[0]
    assert len(set(draws(context, Sampling(temperature=0), 4))) == 1


def likely(logits: Logits, top_k: int, top_p: float, min_p: float) -> set[int]:
    """The tokens that may be drawn, worked out apart from llama.cpp, before any temperature."""
    order = np.argsort(-logits)[: top_k or None]
    p = np.exp(logits[order] - logits[order].max())
    p /= p.sum()
    n = int(np.searchsorted(np.cumsum(p), top_p)) + 1
    order, p = order[:n], p[:n]
    return set(order[p >= min_p * p.max()].tolist())


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), [(5, 1.0, 0.0), (0, 0.3, 0.0), (0, 1.0, 0.3), (6, 0.6, 0.1)]
)
def test_what_can_be_drawn_is_settled_before_the_temperature(
    context: Context, logits: Logits, top_k: int, top_p: float, min_p: float
) -> None:
    allowed = likely(logits, top_k, top_p, min_p)
    assert 2 <= len(allowed) <= 20
    drawn = draws(context, Sampling(10.0, top_k, top_p, min_p, seed=3), 300)
    assert set(drawn) == allowed  # at temperature 10 each of them comes up


def test_tokens_come_up_as_often_as_the_temperature_says(context: Context, logits: Logits) -> None:
    n, temperature = 3000, 1.5
    drawn = Counter(draws(context, Sampling(temperature, 8, 1.0, 0.0, seed=4), n))
    order = np.argsort(-logits)[:8]
    p = np.exp((logits[order] - logits[order].max()) / temperature)
    p /= p.sum()
    for token, share in zip(order.tolist(), p.tolist(), strict=True):
        spread = math.sqrt(share * (1 - share) / n)
        assert abs(drawn[token] / n - share) < 5 * spread


def test_a_sampler_that_is_closed_again_is_freed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[None] = []
    free = llama.llama_sampler_free
    monkeypatch.setattr(llama, "llama_sampler_free", lambda chain: freed.append(free(chain)))
    sampler = Sampler(Sampling(), 49152)
    sampler.close()
    sampler.close()
    assert len(freed) == 1
