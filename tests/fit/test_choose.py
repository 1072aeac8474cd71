"""Block and coefficient by measurement: a planted best is found, and what is given is kept."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from steerplug.errors import FitError
from steerplug.fit.choose import Candidates, Choice, choose
from steerplug.steering.value import Steering

N_EMBD, N_LAYER = 4, 30


def candidates(blocks: Sequence[int] = range(1, N_LAYER - 1)) -> Candidates:
    """Directions of length 1: the coefficient can be read off a steering."""
    unit = np.eye(1, N_EMBD, dtype=np.float32)[0]
    return Candidates("toy", N_EMBD, N_LAYER, "response", dict.fromkeys(blocks, unit))


def coefficient_of(steering: Steering) -> float:
    return float(next(iter(steering.layers.values())).z[0, 0])


class Judge:
    """Scores that fall with the distance from a best block and a best coefficient."""

    def __init__(self, il: int, coefficient: float) -> None:
        self.il, self.coefficient = il, coefficient
        self.tried: list[tuple[tuple[int, ...], float]] = []

    def __call__(self, steerings: Sequence[Steering]) -> list[float]:
        return [self._score(steering) for steering in steerings]

    def _score(self, steering: Steering) -> float:
        layers, c = tuple(steering.layers), coefficient_of(steering)
        self.tried.append((layers, c))
        off = min(abs(il - self.il) for il in layers)
        return 1 - 0.02 * off - 0.001 * abs(math.log(c / self.coefficient))


@pytest.mark.parametrize("il", range(1, N_LAYER - 1))
@pytest.mark.parametrize("coefficient", [1.0, 2.0, 4.0])
def test_a_planted_best_block_and_coefficient_is_found(il: int, coefficient: float) -> None:
    judge = Judge(il, coefficient)
    choice = choose(candidates(), judge, "auto", "auto")
    assert abs(choice.layers[0] - il) <= 1  # the fine pass looks half-way between the coarse tries
    assert choice.coefficient == pytest.approx(coefficient)
    assert choice.score == max(judge._score(candidates().steering([n], coefficient))
                               for n in choice.layers)


@pytest.mark.parametrize("il", range(3, N_LAYER - 1, 2))
def test_every_second_block_is_found_exactly(il: int) -> None:
    assert choose(candidates(), Judge(il, 1.0), "auto", 1.0).layers == (il,)


@pytest.mark.parametrize("blocks", [[1], [1, 2], [4, 9, 11], list(range(1, 79))])
def test_any_number_of_blocks_can_be_chosen_from(blocks: list[int]) -> None:
    judge = Judge(blocks[-1], 2.0)
    toy = Candidates("toy", N_EMBD, 80, "response", candidates(blocks).directions)
    choice = choose(toy, judge, "auto", "auto")
    assert choice.layers[0] in blocks
    assert {layers[0] for layers, _ in judge.tried} <= set(blocks)
    assert len(judge.tried) <= 16


def test_nothing_is_measured_twice() -> None:
    judge = Judge(14, 3.0)
    choose(candidates(), judge, "auto", "auto")
    assert len(set(judge.tried)) == len(judge.tried)


@pytest.mark.parametrize("layers", [(7,), (3, 9, 20)])
def test_given_layers_are_kept_and_steered_together(layers: tuple[int, ...]) -> None:
    judge = Judge(14, 3.0)
    choice = choose(candidates(layers), judge, layers, "auto")
    assert choice.layers == layers
    assert choice.coefficient in (2.0, 4.0)
    assert {tried for tried, _ in judge.tried} == {layers}


@pytest.mark.parametrize("coefficient", [0.25, 1.0, 7.0])
def test_a_given_coefficient_is_kept(coefficient: float) -> None:
    judge = Judge(14, 3.0)
    choice = choose(candidates(), judge, "auto", coefficient)
    assert abs(choice.layers[0] - 14) <= 1
    assert choice.coefficient == coefficient
    assert {tried for _, tried in judge.tried} == {coefficient}


def test_with_both_given_one_measurement_gives_the_score() -> None:
    judge = Judge(14, 3.0)
    choice = choose(candidates([9]), judge, [9], 1.5)
    assert judge.tried == [((9,), 1.5)]
    assert choice == Choice((9,), 1.5, judge._score(candidates().steering([9], 1.5)))


def test_what_is_out_of_the_question_is_never_chosen() -> None:
    judge = Judge(14, 4.5)

    def score(steerings: Sequence[Steering]) -> list[float]:
        return [
            x if coefficient_of(s) < 3 and 14 not in s.layers else -math.inf
            for x, s in zip(judge(steerings), steerings, strict=True)
        ]

    choice = choose(candidates(), score, "auto", "auto")
    assert choice.layers in ((12,), (13,), (15,), (16,))
    assert choice.coefficient == 2.0


@pytest.mark.parametrize(("layers", "c"), [("auto", "auto"), ((4,), "auto"), ((4,), 2.0)])
@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_if_every_candidate_is_out_of_the_question_the_fit_fails(
    layers: tuple[int, ...] | str, c: float | str, bad: float
) -> None:
    score: Callable[[Sequence[Steering]], Sequence[float]] = lambda s: [bad] * len(s)  # noqa: E731
    with pytest.raises(FitError, match="`toy` garbles this model at every block tried; give it"):
        choose(candidates(), score, layers, c)  # type: ignore[arg-type]


def test_a_candidate_adds_its_coefficient_times_its_directions() -> None:
    toy = Candidates("toy", N_EMBD, N_LAYER, "all", {
        2: np.arange(4, dtype=np.float32), 5: np.ones(4, np.float32), 9: np.zeros(4, np.float32),
    })  # fmt: skip
    steering = toy.steering([5, 2], 1.5)
    assert (steering.name, steering.scope, steering.n_layer) == ("toy", "all", N_LAYER)
    assert list(steering.layers) == [2, 5]
    np.testing.assert_allclose(steering.layers[2].z[0], [0, 1.5, 3, 4.5])
    np.testing.assert_allclose(steering.layers[5].z[0], 1.5)
    assert steering.layers[2].n_units == 0


def test_a_harmful_best_is_still_the_best() -> None:
    """Gap closed may be negative at every block; the least harm is reported, not hidden."""
    choice = choose(candidates(), lambda s: [-1.0 - coefficient_of(x) for x in s], "auto", "auto")
    assert choice.coefficient == 1.0
    assert choice.score == -2.0
