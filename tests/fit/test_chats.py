"""Chats are read block after block, on from the last one, wherever that is the same."""

from collections.abc import Sequence

import numpy as np
import pytest

from steerplug.engine.capture import Given
from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt
from steerplug.fit.chain.chats import Chats
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Steering

BLOCKS = (1, 3, 4)


@pytest.fixture(scope="module")
def lessons() -> list[Lesson]:
    """Three lessons of random tokens whose bare chats begin alike."""
    rng = np.random.default_rng(0)
    texts = rng.integers(3, 96, (3, 30)).tolist()
    return [
        Lesson(Prompt((5, 6, *t[:20])), Prompt((5, 6, *t[10:20])), tuple(t[20:])) for t in texts
    ]


def below(il: int) -> Mix:
    """A constant at each of the blocks under one."""
    deltas = {
        other: Delta.constant(np.random.default_rng(other).standard_normal(64, np.float32))
        for other in BLOCKS if other < il
    }  # fmt: skip
    return Mix.of(Steering("constants", 64, 5, deltas, "response")) if deltas else NOTHING


def bare(reader: Reader, lessons: Sequence[Lesson]) -> Chats:
    return Chats(reader, lessons, [lesson.bare for lesson in lessons], "response")


def read(chats: Chats) -> list[list[Array]]:
    return [chats.at([il], below(il)) for il in BLOCKS]


@pytest.fixture
def peeks(tiny: Reader, monkeypatch: pytest.MonkeyPatch) -> list[Given | None]:
    """What is given to each read from now on."""
    told: list[Given | None] = []
    peek = tiny.peek

    def counted(rows: Sequence[Row], layers: Sequence[int], given: Given | None = None) -> Array:
        told.append(given)
        return peek(rows, layers, given)

    monkeypatch.setattr(tiny, "peek", counted)
    return told


def same(rows: list[list[Array]], expected: list[list[Array]]) -> bool:
    return all(
        np.array_equal(a, b)
        for at_block, expected_there in zip(rows, expected, strict=True)
        for a, b in zip(at_block, expected_there, strict=True)
    )


@pytest.fixture
def whole(tiny: Reader, lessons: list[Lesson]) -> list[list[Array]]:
    """The rows of all lessons at each block, each read from its tokens."""
    return [bare(tiny, lessons).at([il], below(il)) for il in BLOCKS]


def test_each_block_is_read_on_from_the_one_before_with_the_same_rows(
    tiny: Reader, lessons: list[Lesson], whole: list[list[Array]], peeks: list[Given | None]
) -> None:
    assert same(read(bare(tiny, lessons)), whole)
    begun = [given.il if given else None for given in peeks]
    first = [None] * 3
    # Later the first lesson is read from the last block, and from its tokens, before all are.
    assert begun == [*first, 1, None, 1, 1, 1, 3, None, 3, 3, 3]


def test_where_blocks_need_more_of_those_below_all_are_read_from_their_tokens(
    tiny: Reader, lessons: list[Lesson], whole: list[list[Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a block reads keys that another one has kept, which are not there then."""
    peek = tiny.peek

    def short_of_keys(
        rows: Sequence[Row], layers: Sequence[int], given: Given | None = None
    ) -> Array:
        read = peek(rows, layers, given)
        return read if given is None else read + np.float32(0.01) * np.abs(read).max()

    monkeypatch.setattr(tiny, "peek", short_of_keys)
    assert same(read(bare(tiny, lessons)), whole)


def test_where_nothing_can_be_given_all_are_read_from_their_tokens(
    tiny: Reader, lessons: list[Lesson], whole: list[list[Array]], peeks: list[Given | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tiny.context.hook, "in_graph", False)
    chats = read(bare(tiny, lessons))
    assert peeks == [None] * 9
    assert same(chats, whole)
