"""Directions from differences of activations: planted ones are found, real ones are right.

The oracle of the real ones is transformers on the same GGUF, dequantised: `hidden_states[il + 1]`
is what leaves block il.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.errors import FitError
from steerplug.fit import activations, difference
from steerplug.fit.activations import Activations
from steerplug.steering.value import Array

N_EMBD, LAYERS = 48, (3, 7)


def cosine(a: Array, b: Array) -> float:
    return float(a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b)))


def planted(
    n_rows: int = 400, noise: float = 0.3, size: float = 2.0, spread: float = 0.0, seed: int = 0
) -> tuple[Activations, Array]:
    """Rows whose two sides differ by `size` times a unit direction per block, and noise.

    Args:
        n_rows: how many pairs.
        noise: deviation of each value.
        size: mean projection of the differences on the direction.
        spread: deviation of that projection.
        seed: of the rows.
    """
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((len(LAYERS), N_EMBD))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    shape = (n_rows, len(LAYERS), N_EMBD)
    base = rng.standard_normal(shape)
    along = size + spread * rng.standard_normal((n_rows, 1, 1))
    positive = base + along * v + noise * rng.standard_normal(shape)
    rows = Activations(positive.astype(np.float32), base.astype(np.float32), LAYERS)
    return rows, v.astype(np.float32)


def with_nuisance(rows: Activations, seed: int = 5) -> Activations:
    """The same with a big offset per pair, as its topic makes, common to its two sides."""
    rng = np.random.default_rng(seed)
    topic = 50 * rng.standard_normal((len(rows.positive), 1, 1))
    offset = (topic * rng.standard_normal((1, *rows.positive.shape[1:]))).astype(np.float32)
    return Activations(rows.positive + offset, rows.negative + offset, rows.layers)


METHODS = pytest.mark.parametrize("method", [difference.mean, difference.pca])
Method = Callable[[Activations], difference.Directions]


@METHODS
def test_a_planted_direction_is_found_at_every_block(method: Method) -> None:
    rows, v = planted()
    found = method(rows)
    assert sorted(found) == list(LAYERS)
    for i, il in enumerate(LAYERS):
        assert found[il].shape == (N_EMBD,)
        assert found[il].dtype == np.float32
        assert cosine(found[il], v[i]) > 0.99
        assert np.linalg.norm(found[il]) == pytest.approx(2.0, rel=0.03)


def test_mean_is_the_difference_of_the_means() -> None:
    rows, _ = planted(n_rows=9)
    found = difference.mean(rows)
    for i, il in enumerate(LAYERS):
        expected = rows.positive[:, i].mean(0) - rows.negative[:, i].mean(0)
        np.testing.assert_allclose(found[il], expected, atol=1e-5)


def test_pca_is_sharper_than_the_mean_where_the_differences_vary_along_the_direction() -> None:
    rows, v = planted(n_rows=60, noise=0.5, size=1.0, spread=4.0, seed=3)
    for i, il in enumerate(LAYERS):
        sharp, blunt = (cosine(m(rows)[il], v[i]) for m in (difference.pca, difference.mean))
        assert sharp > 0.99
        assert sharp > blunt


def test_the_size_of_pca_is_the_mean_projection_of_the_differences() -> None:
    rows, _ = planted(spread=1.5)
    found = difference.pca(rows)
    for i, il in enumerate(LAYERS):
        along = (rows.positive[:, i] - rows.negative[:, i]) @ found[il]
        size = float(np.linalg.norm(found[il]))
        assert size == pytest.approx(float(along.mean()) / size, rel=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_pca_points_to_the_positive_side_whatever_sign_the_decomposition_has(
    sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, v = planted()
    swapped = Activations(rows.negative, rows.positive, rows.layers)
    expected = difference.pca(rows)
    real = np.linalg.svd

    def turned(*args: Any, **settings: Any) -> Any:
        u, s, vh = real(*args, **settings)
        return sign * u, s, sign * vh

    monkeypatch.setattr(np.linalg, "svd", turned)
    for i, il in enumerate(LAYERS):
        assert cosine(difference.pca(rows)[il], v[i]) > 0.99
        np.testing.assert_allclose(difference.pca(rows)[il], expected[il], atol=1e-5)
        np.testing.assert_allclose(difference.pca(swapped)[il], -expected[il], atol=1e-5)


@METHODS
def test_what_the_two_sides_of_a_pair_have_in_common_does_not_matter(method: Method) -> None:
    rows, v = planted(n_rows=60)
    expected, found = method(rows), method(with_nuisance(rows))
    for i, il in enumerate(LAYERS):
        assert cosine(found[il], v[i]) > 0.98
        np.testing.assert_allclose(found[il], expected[il], atol=1e-3)


def test_that_common_part_would_hide_the_direction_if_rows_were_not_paired() -> None:
    """The test above has teeth: a component of the unpaired rows is the nuisance."""
    rows, v = planted(n_rows=60)
    noisy = with_nuisance(rows)
    pooled = np.concatenate([noisy.positive, noisy.negative])[:, 0].astype(np.float64)
    component = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[2][0]
    assert abs(cosine(component.astype(np.float32), v[0])) < 0.5


def test_pca_of_pairs_that_cancel_out_is_refused() -> None:
    one = np.ones((1, 1, 4), np.float32)
    rows = Activations(np.concatenate([one, -one]), np.concatenate([-one, one]), (3,))
    with pytest.raises(FitError, match="pairs cancel out; write pairs that differ in one way"):
        difference.pca(rows)


@pytest.mark.parametrize(
    ("positive", "negative", "layers"),
    [((3, 2, 4), (2, 2, 4), (0, 1)), ((3, 2, 4), (3, 2, 4), (0,)), ((0, 2, 4), (0, 2, 4), (0, 1))],
)
def test_rows_that_do_not_pair_up_are_refused(
    positive: tuple[int, ...], negative: tuple[int, ...], layers: tuple[int, ...]
) -> None:
    with pytest.raises(FitError, match="do not pair up over"):
        Activations(np.ones(positive, np.float32), np.ones(negative, np.float32), layers)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_activations_that_are_not_finite_are_refused(value: float, side: int) -> None:
    sides = [np.ones((2, 1, 4), np.float32), np.ones((2, 1, 4), np.float32)]
    sides[side][1, 0, 2] = value
    with pytest.raises(FitError, match="not finite; try another"):
        Activations(sides[0], sides[1], (3,))


# On the real model


@pytest.fixture
def reader(context: Context) -> Reader:
    return Reader(context)


Hidden = Callable[[Sequence[int]], list[Array]]


@pytest.fixture(scope="module")
def hidden(smollm2_oracle: Any) -> Hidden:
    """transformers' activations of a text, (n_tokens, n_embd) as they leave each block."""

    def states(tokens: Sequence[int]) -> list[Array]:
        with torch.no_grad():
            out = smollm2_oracle.model(torch.tensor([list(tokens)]), output_hidden_states=True)
        return [h[0].numpy() for h in out.hidden_states[1:]]

    return states


BLOCKS = (0, 1, 6, 15, 28)


def test_captured_activations_are_those_of_transformers(
    reader: Reader, hidden: Hidden, model: Model
) -> None:
    tokens = [model.vocab.bos, *model.vocab.tokenize("I love the sea in summer, do you?")]
    ours, theirs = activations.capture(reader, tokens, BLOCKS, 0), hidden(tokens)
    assert ours.shape == (len(BLOCKS), len(tokens), model.n_embd)
    for i, il in enumerate(BLOCKS):
        for row in range(len(tokens)):
            assert cosine(ours[i, row], theirs[il][row]) > 0.98, (il, row)
            others = [cosine(ours[i, row], h[row]) for n, h in enumerate(theirs) if abs(n - il) > 5]
            assert cosine(ours[i, row], theirs[il][row]) > max(others) or row == 0


def test_rows_captured_after_a_cached_beginning_are_those_of_a_fresh_context(
    reader: Reader, model: Model
) -> None:
    one = [model.vocab.bos, *model.vocab.tokenize("I love the sea in summer")]
    two = [model.vocab.bos, *model.vocab.tokenize("I love the sea in winter")]
    last = model.n_layer - 1
    whole = activations.capture(reader, two, (4, last), 0)
    activations.capture(reader, one, (4, last), 0)
    part = activations.capture(reader, two, (4, last), 5)
    assert part.shape[1] == len(two) - 5
    np.testing.assert_allclose(part, whole[:, 5:], rtol=0.05, atol=0.05)


def test_a_text_of_several_batches_is_captured_whole(
    reader: Reader, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [model.vocab.bos, *model.vocab.tokenize("I love the sea in summer, and you? " * 2)]
    whole = activations.capture(reader, tokens, (4, 9), 2)
    monkeypatch.setattr(reader.context, "n_batch", 5)
    pieces = activations.capture(reader, tokens, (4, 9), 2)
    assert whole.shape == pieces.shape
    assert cosine(whole, pieces) > 0.9999


def test_a_text_that_does_not_fit_the_context_is_refused(reader: Reader) -> None:
    with pytest.raises(FitError, match="has 513 tokens and the context holds 512; shorten"):
        activations.capture(reader, [5] * 513, (4,), 0)


def test_texts_are_averaged_over_their_tokens_after_bos(reader: Reader, model: Model) -> None:
    pairs = [("I love the sea", "I hate the sea"), ("Good", "Very bad indeed")]
    rows = activations.of_texts(reader, pairs, (6, 12))
    assert rows.positive.shape == rows.negative.shape == (2, 2, model.n_embd)
    tokens = [model.vocab.bos, *model.vocab.tokenize("Very bad indeed")]
    expected = activations.capture(reader, tokens, (6, 12), 0)[:, 1:].mean(axis=1)
    assert cosine(rows.negative[1], expected) > 0.999


def test_a_text_without_tokens_is_refused(reader: Reader) -> None:
    with pytest.raises(FitError, match="has no tokens; write at least one word"):
        activations.of_texts(reader, [("Good", "")], (6,))


def padded(model: Model, text: str, length: int) -> list[int]:
    tokens = [model.vocab.bos, *model.vocab.tokenize(text)]
    (space,) = model.vocab.tokenize(" ")
    return tokens + [space] * (length - len(tokens))


def test_actadd_is_zero_at_bos_and_something_after_it(reader: Reader, model: Model) -> None:
    layers = tuple(range(model.n_layer))
    directions = difference.actadd(reader, ("Love", "Hate"), layers)
    assert sorted(directions) == list(layers)
    assert len(padded(model, "Love", 0)) < 3 == len(padded(model, "Hate", 0))
    for rows in directions.values():
        assert rows.shape == (3, model.n_embd)
        assert not rows[0].any()
        assert (np.linalg.norm(rows[1:], axis=1) > 0.1).all()


@pytest.mark.parametrize(
    "pair", [("Love", "Hate"), ("I talk about weddings constantly", "I do not"), ("Anger", "")]
)
def test_actadd_is_the_difference_of_two_prompts_padded_with_the_space_token(
    pair: tuple[str, str], reader: Reader, hidden: Hidden, model: Model
) -> None:
    length = max(len(padded(model, text, 0)) for text in pair)
    found = difference.actadd(reader, pair, BLOCKS)
    plus, minus = (hidden(padded(model, text, length)) for text in pair)
    sizes = []
    for il in BLOCKS:
        assert found[il].shape == (length, model.n_embd)
        assert cosine(found[il], plus[il] - minus[il]) > 0.98, il
        sizes.append(np.linalg.norm(found[il]) / np.linalg.norm(plus[il] - minus[il]))
    # Of all blocks: Q4_1 hits the size of one where a bare space has a giant activation.
    assert abs(np.median(sizes) - 1) < 0.05


def test_actadd_of_swapped_prompts_is_the_negative(reader: Reader) -> None:
    one = difference.actadd(reader, ("Love", "I hate it"), (6,))[6]
    other = difference.actadd(reader, ("I hate it", "Love"), (6,))[6]
    np.testing.assert_array_equal(one, -other)
