"""Where requests go, without a cluster: chats stay, mixes gather, and nobody waits behind them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.cluster.warmth import SLACK, Keys, Warmth

REPLICAS = ("a", "b", "c", "d")
IDLE = dict.fromkeys(REPLICAS, 0)


def body(*texts: str, **more: Any) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return json.dumps({"model": "m@pirate", "messages": messages, **more}).encode()


def test_a_chat_is_known_by_how_it_begins_and_a_mix_however_it_is_said() -> None:
    first, later = Keys.of(body("Hi")), Keys.of(body("Hi", "Ahoy", "And then?"))
    assert first == later
    other = Keys.of(body("Hello"))
    assert other.chat != first.chat
    assert other.mix == first.mix
    assert Keys.of(body("Hi", model="m@concise")).mix != first.mix
    assert Keys.of(body("Hi", steering={"pirate": 0.5})).mix != first.mix
    assert Keys.of(body("Hi", temperature=1)) == first
    prompted = Keys.of(json.dumps({"model": "m", "prompt": "Once"}).encode())
    assert prompted.chat
    assert prompted.mix == Keys.of(json.dumps({"model": "m", "input": "Hi"}).encode()).mix


STRANGE = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["messages", "role", "model", "input"]), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=50)
@given(st.binary(max_size=20) | STRANGE.map(lambda value: json.dumps(value).encode()))
def test_no_body_is_too_strange_to_be_sent_somewhere(strange: bytes) -> None:
    assert Warmth().choose(Keys.of(strange), IDLE) in REPLICAS


@pytest.mark.parametrize("strange", [b"[" * 3000, b'{"model": "\\ud800"}'])
def test_what_a_server_refuses_is_like_no_other_request(strange: bytes) -> None:
    assert Keys.of(strange) == Keys()


def test_a_chat_stays_and_its_mix_gathers_until_that_would_make_it_wait() -> None:
    warmth = Warmth()
    homes = {warmth.choose(Keys(f"chat{i}", "mix"), IDLE) for i in range(20)}
    (home,) = homes
    assert Warmth().choose(Keys("another", "mix"), IDLE) == home  # every router says the same
    mixes = [warmth.choose(Keys("", f"mix{i}"), IDLE) for i in range(400)]
    assert all(60 < mixes.count(name) < 140 for name in REPLICAS)
    assert warmth.choose(Keys("chat1", "mix"), {**IDLE, home: SLACK}) == home
    elsewhere = warmth.choose(Keys("chat1", "mix"), {**IDLE, home: SLACK + 1})
    assert elsewhere != home
    assert warmth.choose(Keys("chat1", "mix"), IDLE) == elsewhere  # its beginning is there now
    assert warmth.choose(Keys("chat2", "mix"), IDLE) == home


def test_who_says_nothing_goes_to_whoever_has_least() -> None:
    assert Warmth().choose(Keys(), {"a": 3, "b": 1, "c": 2}) == "b"


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=200))
def test_nobody_ever_has_more_than_the_slack_beyond_the_least(asked: list[tuple[int, int]]) -> None:
    warmth, loads = Warmth(), dict(IDLE)
    for chat, mix in asked:
        chosen = warmth.choose(Keys(f"chat{chat}", f"mix{mix}"), loads)
        loads[chosen] += 1
        assert loads[chosen] <= min(loads.values()) + SLACK + 1


def test_a_mix_keeps_its_replicas_when_others_come_and_go() -> None:
    def homes(replicas: tuple[str, ...]) -> list[str]:
        idle = dict.fromkeys(replicas, 0)
        return [Warmth().choose(Keys("", f"mix{i}"), idle) for i in range(100)]

    before, after = homes(REPLICAS), homes((*REPLICAS, "e"))
    assert all(now in (was, "e") for was, now in zip(before, after, strict=True))
    assert before != after
