"""Bytes of tokens to text: whole characters only, and nothing of a stop string."""

import codecs
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steerplug.engine.detokenizer import Detokenizer


def stream(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    """Feed pieces until the text is stopped, as the engine does; return what was shown when."""
    text, shown = Detokenizer(stop), []
    for piece in pieces:
        shown.append(text.feed(piece))
        if text.stopped_by is not None:
            break
    shown.append(text.finish())
    return shown, text


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


some_bytes = st.one_of(
    st.binary(max_size=24),
    st.text(max_size=12).map(str.encode),
    st.lists(st.sampled_from([b"\xf0\x9f", b"\x8e\x89", b"a", b"\xe2\x82", b"\xac", b"\xff", b"b"]),
             max_size=10).map(b"".join),
)
cuts = st.lists(st.integers(0, 100), max_size=8)
# A small alphabet makes stop strings that overlap each other and themselves.
small_text = st.text("abc", max_size=14)
small_stops = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple)


@given(data=some_bytes, cuts=cuts)
@settings(max_examples=300, deadline=None)
def test_any_bytes_split_anywhere_give_the_same_text(data: bytes, cuts: list[int]) -> None:
    shown, _ = stream(split_at(data, cuts))
    assert "".join(shown) == codecs.getincrementaldecoder("utf-8")("replace").decode(data)


@given(text=small_text, stop=small_stops, cuts=cuts)
@example(text="abca", stop=("abca", "b"), cuts=[3])
@example(text="aab", stop=("ab",), cuts=[1, 2])
@settings(max_examples=500, deadline=None)
def test_where_a_text_stops_does_not_depend_on_where_it_is_split(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    shown, ended = stream(split_at(text.encode(), cuts), stop)
    whole, ended_whole = stream([text.encode()], stop)
    assert ("".join(shown), ended.stopped_by) == ("".join(whole), ended_whole.stopped_by)


@given(text=small_text, stop=small_stops, cuts=cuts)
@settings(max_examples=500, deadline=None)
def test_the_text_ends_where_the_first_stop_string_to_be_complete_begins(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    shown, ended = stream(split_at(text.encode(), cuts), stop)
    complete = next(
        (end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)), None
    )
    if complete is None:
        assert ("".join(shown), ended.stopped_by) == (text, None)
        return
    longest = max((s for s in stop if text[:complete].endswith(s)), key=len)
    assert "".join(shown) == text[: complete - len(longest)]
    assert ended.stopped_by == longest


@given(text=small_text, stop=small_stops)
@settings(max_examples=300, deadline=None)
def test_no_more_is_held_back_than_could_still_begin_a_stop_string(
    text: str, stop: tuple[str, ...]
) -> None:
    stream = Detokenizer(stop)
    shown = ""
    for n, character in enumerate(text, start=1):
        shown += stream.feed(character.encode())
        if stream.stopped_by is not None:
            break
        held = text[len(shown) : n]
        assert shown + held == text[:n]
        assert not held or any(s.startswith(held) for s in stop)


@pytest.mark.parametrize("character", ["🎉", "é", "€", "👩‍👩‍👧‍👦"])
def test_a_character_split_over_tokens_is_shown_once_it_is_whole(character: str) -> None:
    data = character.encode()
    shown, _ = stream([data[i : i + 1] for i in range(len(data))])
    assert "".join(shown) == character
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(shown)
    first = len(character[0].encode())
    assert shown[: first - 1] == [""] * (first - 1)
    assert shown[first - 1] == character[0]


def test_a_text_that_ends_inside_a_character_ends_before_it() -> None:
    shown, _ = stream([b"ok ", b"\xf0\x9f\x8e"])
    assert shown == ["ok ", "", ""]
    shown, _ = stream([b"ok <\xf0\x9f\x8e"], ("<\N{PARTY POPPER}!",))
    assert shown == ["ok ", "<"]


def test_bytes_in_the_midst_that_are_no_character_are_shown_as_a_replacement() -> None:
    shown, _ = stream([b"a\xf0\x9f", b"b\xff", b"\x8e"])
    assert "".join(shown) == "a\N{REPLACEMENT CHARACTER}b" + 2 * "\N{REPLACEMENT CHARACTER}"


def test_text_that_might_begin_a_stop_string_is_held_back_until_it_is_decided() -> None:
    shown, ended = stream([b"Hi <", b"|", b"b> <|e", b"nd|> more"], ("<|end|>",))
    assert shown == ["Hi ", "", "<|b> ", "", ""]
    assert ended.stopped_by == "<|end|>"


def test_what_was_held_back_is_shown_when_the_text_ends_otherwise() -> None:
    shown, ended = stream([b"a STO"], ("STOP",))
    assert shown == ["a ", "STO"]
    assert ended.stopped_by is None


def test_a_stop_string_may_contain_a_character_split_over_tokens() -> None:
    party = "🎉".encode()
    shown, ended = stream([b"yes " + party[:2], party[2:] + b"!"], ("🎉!",))
    assert "".join(shown) == "yes "
    assert ended.stopped_by == "🎉!"


def test_nothing_is_shown_after_the_stop() -> None:
    text = Detokenizer(("X",))
    assert text.feed(b"aXb") == "a"
    assert text.feed(b"more") == ""
    assert text.finish() == ""
