"""Drawing tokens: refusals, and llama.cpp's own chain draw for draw."""

import ctypes
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from steerplug.engine.context import Context
from steerplug.engine.rows import Row
from steerplug.engine.sampler import Sampler, Sampling
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


def draws(
    context: Context, sampling: Sampling, n: int, prompt: Sequence[int] = ()
) -> list[int]:
    vocab = context.model.vocab
    sampler = Sampler(sampling, vocab.n_tokens, vocab=vocab, n_ctx=512, prompt=prompt)
    drawn = [sampler.draw(context, ROW) for _ in range(n)]
    sampler.close()
    return drawn


def hand_built(
    context: Context, stages: Sequence[object], n: int, prompt: Sequence[int] = ()
) -> list[int]:
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    for stage in stages:
        llama.llama_sampler_chain_add(chain, stage)
    for token in prompt:  # as llama.cpp's own server does before it draws
        llama.llama_sampler_accept(chain, token)
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
        ("top_k", -2, "top_k is -2; choose 0 to 1000000."),
        ("top_k", -1.0, "top_k is -1.0; give a whole number such as 0."),
        ("top_k", 2.5, "top_k is 2.5; give a whole number such as 0."),
        ("top_k", 2**40, f"top_k is {2**40}; choose 0 to 1000000."),
        ("top_p", 1.01, "top_p is 1.01; choose 0.0 to 1.0."),
        ("min_p", -1, "min_p is -1; choose 0.0 to 1.0."),
        ("repeat_penalty", 0, "repeat_penalty is 0; choose 0.1 to 10.0."),
        ("seed", -2, f"seed is -2; choose 0 to {2**32 - 2}."),
        ("seed", 2**32 - 1, f"seed is {2**32 - 1}; choose 0 to {2**32 - 2}."),
        ("seed", 1.0, "seed is 1.0; give a whole number such as 0."),
        ("seed", [1], "seed is [1]; give a number such as 0."),
        ("frequency_penalty", math.nan, "frequency_penalty is nan; choose -100.0 to 100.0."),
        ("repeat_last_n", -2, "repeat_last_n is -2; choose -1 to 1000000."),
        ("mirostat", 3, "mirostat is 3; choose 0 to 2."),
        ("typical_p", 1.1, "typical_p is 1.1; choose 0.0 to 1.0."),
        ("dry_base", 0.5, "dry_base is 0.5; choose 1.0 to 100.0."),
        (
            "dry_sequence_breakers", "ab",
            "dry_sequence_breakers is 'ab'; give a list such as [\"\\n\"].",
        ),
        (
            "dry_sequence_breakers", ["a", ""],
            "dry_sequence_breakers holds ''; give texts, none empty.",
        ),
    ],
)  # fmt: skip
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


BREAKERS = (b"\n", b":", b'"', b"*")
TEMP, DIST = (llama.llama_sampler_init_temp, 0.8), (llama.llama_sampler_init_dist, 17)
DEFAULT: list[tuple[Any, ...]] = [
    (llama.llama_sampler_init_top_k, 40), (llama.llama_sampler_init_top_p, 0.95, 1),
    (llama.llama_sampler_init_min_p, 0.05, 1), TEMP, DIST,
]  # fmt: skip


def penalties(n: int, repeat: float, frequency: float, presence: float) -> tuple[Any, ...]:
    return llama.llama_sampler_init_penalties, 49152, n, repeat, frequency, presence


CHAINS: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]]]] = {
    "frequency": ({"frequency_penalty": 1.5}, [penalties(64, 1.0, 1.5, 0.0), *DEFAULT]),
    "presence": ({"presence_penalty": 1.5}, [penalties(64, 1.0, 0.0, 1.5), *DEFAULT]),
    "last n": (
        {"repeat_penalty": 2.0, "repeat_last_n": 3}, [penalties(3, 2.0, 0.0, 0.0), *DEFAULT],
    ),
    "the whole context": (
        {"presence_penalty": 3.0, "repeat_last_n": -1}, [penalties(512, 1.0, 0.0, 3.0), *DEFAULT],
    ),
    "none of the last": ({"presence_penalty": 3.0, "repeat_last_n": 0}, DEFAULT),
    "typical": (
        {"typical_p": 0.3},
        [DEFAULT[0], (llama.llama_sampler_init_typical, 0.3, 1), *DEFAULT[1:]],
    ),
    "sigma": (
        {"top_n_sigma": 0.5}, [(llama.llama_sampler_init_top_n_sigma, 0.5), *DEFAULT],
    ),
    "xtc": (
        {"xtc_probability": 0.7, "xtc_threshold": 0.05},
        [*DEFAULT[:3], (llama.llama_sampler_init_xtc, 0.7, 0.05, 1, 17), TEMP, DIST],
    ),
    "mirostat": (
        {"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.2},
        [TEMP, (llama.llama_sampler_init_mirostat, 49152, 17, 3.0, 0.2, 100)],
    ),
    "mirostat 2": (
        {"mirostat": 2, "mirostat_tau": 2.0},
        [TEMP, (llama.llama_sampler_init_mirostat_v2, 17, 2.0, 0.1)],
    ),
    "dynamic temperature": (
        {"dynatemp_range": 0.7, "dynatemp_exponent": 2.0},
        [*DEFAULT[:3], (llama.llama_sampler_init_temp_ext, 0.8, 0.7, 2.0), DIST],
    ),
    "greedy typical": (
        {"temperature": 0, "typical_p": 0.2, "top_k": 0},
        [(llama.llama_sampler_init_typical, 0.2, 1), *DEFAULT[1:3],
         (llama.llama_sampler_init_greedy,)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_each_sampler_of_llama_cpp_stands_where_llama_cpp_has_it(
    context: Context, logits: Logits, name: str
) -> None:
    assert logits.size == 49152
    said, stages = CHAINS[name]
    prompt = context.model.vocab.tokenize("the room and the house and the door and a cat")
    drawn = draws(context, Sampling(**{"seed": 17, **said}), 60, prompt)
    built = [make(*arguments) for make, *arguments in stages]
    assert drawn == hand_built(context, built, 60, prompt)
    if stages != DEFAULT:
        assert drawn != draws(context, Sampling(seed=17), 60, prompt)


@pytest.mark.parametrize(("last_n", "window"), [(64, 64), (5, 5), (-1, 512)])
def test_dry_breaks_repetitions_of_prompt_and_reply_as_llama_cpp_does(
    context: Context, logits: Logits, last_n: int, window: int
) -> None:
    vocab, best = context.model.vocab, int(logits.argmax())
    prompt = [*vocab.tokenize("left right"), best, *vocab.tokenize("left right")]
    texts = (ctypes.c_char_p * 4)(*BREAKERS)
    dry = llama.llama_sampler_init_dry(vocab.handle, 2.0, 1.75, 2, window, texts, 4)
    said = Sampling(seed=17, dry_multiplier=2.0, dry_penalty_last_n=last_n)
    built = [make(*arguments) for make, *arguments in DEFAULT]
    drawn = draws(context, said, 60, prompt)
    assert drawn == hand_built(context, [dry, *built], 60, prompt)
    greedy = Sampling(temperature=0, dry_multiplier=20.0, dry_penalty_last_n=last_n)
    assert draws(context, greedy, 1, prompt) != [best]
    broken = replace(greedy, dry_sequence_breakers=["left", "right"])
    assert draws(context, broken, 1, prompt) == [best]


def test_what_is_set_to_off_is_left_out(context: Context, logits: Logits) -> None:
    assert logits.size
    off = Sampling(
        seed=17, repeat_last_n=0, repeat_penalty=1.5, typical_p=1.0, top_n_sigma=0.0,
        xtc_probability=0.0, dry_multiplier=0.0, mirostat=0, dynatemp_range=0.0, presence_penalty=2,
    )  # fmt: skip
    assert draws(context, off, 40) == draws(context, Sampling(seed=17), 40)
    everything = Sampling(seed=17, top_k=-1, top_p=1.0, min_p=0.0)
    assert everything == Sampling(seed=17, top_k=0, top_p=1.0, min_p=0.0)
    assert draws(context, everything, 40) == hand_built(
        context, [make(*rest) for make, *rest in (TEMP, DIST)], 40
    )


def test_a_forbidden_token_is_never_drawn_whatever_the_sampler(
    context: Context, logits: Logits
) -> None:
    allowed = np.argsort(-logits)[5:9]
    context.logits_in_place(ROW)[np.setdiff1d(np.arange(len(logits)), allowed)] = -np.inf
    for said in (
        {"typical_p": 0.5}, {"mirostat": 1}, {"mirostat": 2}, {"top_n_sigma": 3.0},
        {"xtc_probability": 0.5, "xtc_threshold": 0.01}, {"frequency_penalty": 2.0},
        {"repeat_penalty": 1.1}, {"dry_multiplier": 5.0}, {"dynatemp_range": 0.5},
    ):  # fmt: skip
        settings: dict[str, Any] = {"seed": 3, "top_k": 0, "temperature": 2.0, **said}
        drawn = draws(context, Sampling(**settings), 40)
        assert set(drawn) <= set(allowed.tolist()), said
        assert len(set(drawn)) > 1, said


def test_what_was_drawn_and_not_said_is_not_penalised(context: Context, logits: Logits) -> None:
    best = int(logits.argmax())
    vocab = context.model.vocab
    sampler = Sampler(Sampling(temperature=0, presence_penalty=50.0), vocab.n_tokens)
    assert sampler.draw(context, ROW) == best
    assert sampler.draw(context, ROW) != best
    sampler.remember([5])
    assert sampler.draw(context, ROW) == best
    sampler.close()


def test_a_seed_of_minus_1_is_a_fresh_one_and_top_k_of_minus_1_keeps_all() -> None:
    assert Sampling(seed=-1) == Sampling()
    assert len({Sampling(seed=-1).seeded().seed for _ in range(20)}) == 20
    assert Sampling(top_k=-1) == Sampling(top_k=0)


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
