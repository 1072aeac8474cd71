"""A preset over several turns and under overrides, on a tiny model: the way, not what comes of it.

Distances are held against one reading of the whole chat at once, by torch.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading, reply_rows
from steerplug.evaluate import overrides, turns
from steerplug.evaluate.arms import ANSWER_ONLY, BOTH, PARAPHRASED, Arm, arms_of
from steerplug.evaluate.dialogue import Dialogue, converse, distances
from steerplug.evaluate.estimate import (
    NO_ESTIMATE,
    as_json,
    change,
    ratio,
    share,
    share_change,
)
from steerplug.evaluate.fidelity import BARE, PROMPTED, STEERED
from steerplug.evaluate.journal import Journal, figure_journal, key_of, reply_journal
from steerplug.evaluate.overrides import measure_overrides
from steerplug.evaluate.scripts import Override, by_script, chats, reworded
from steerplug.evaluate.scripts import overrides as all_overrides
from steerplug.evaluate.turns import measure_turns
from steerplug.fit.questions import general_prompts
from steerplug.fit.reply_cache import CachedReply, ReplyCache
from steerplug.library.presets import load_preset, shipped_folder
from steerplug.preset import Preset
from steerplug.steering.value import Delta, Mix, Scope, Steering
from tests.helpers.tiny_models import tiny_model

PRESET = Preset.from_mapping({
    "schema": "steerplug/preset-v1", "name": "few", "fit": {"method": "chain"},
    "teacher": {"system": "Use few words, and let the sea be in every answer that you give."},
    "checks": [{"kind": "max_words", "count": 3}],
})  # fmt: skip
SCRIPTS = [("What is rain?", "And snow?", "Hail?", "Fog?"), ("Fog?", "Hail?", "And snow?", "Why?")]
N_TOKENS = 5


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with closing(Model(tiny_model("llama"))) as model:
        yield model


@pytest.fixture(scope="module")
def template(model: Model) -> ChatTemplate:
    return ChatTemplate.of(model)


def planted(model: Model, scope: Scope = "response") -> Mix:
    z = 9 * np.random.default_rng(0).standard_normal(model.n_embd).astype(np.float32)
    return Mix.of(Steering("few", model.n_embd, model.n_layer, {1: Delta.constant(z)}, scope))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two short chats, and an empty cache, whose folder is returned."""
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path))
    monkeypatch.setattr(turns, "chats", lambda _n: SCRIPTS)
    monkeypatch.setattr(turns, "REPLY_TOKENS", N_TOKENS)
    monkeypatch.setattr(overrides, "REPLY_TOKENS", N_TOKENS)
    return tmp_path


# --- figures


def test_a_change_is_of_the_same_prompts() -> None:
    """A question that is hard in both turns leaves no doubt that neither is better."""
    over, under = [9, 1, 5, 3], [10, 10, 10, 10]
    assert change((over, under), (over, under)).interval == (0, 0)
    later = [x + 1 for x in over]
    found = change((later, under), (over, under))
    assert found.value == pytest.approx(0.1)
    assert found.interval == pytest.approx((0.1, 0.1))
    assert change(([1], [2]), ([1], [4])).value == 0.25
    assert change(([1, 1], [0, 0]), ([1, 1], [1, 1])) == NO_ESTIMATE


def test_figures_become_json_with_their_intervals_beside_them() -> None:
    one, other = ratio([1, 2], [2, 4]), ratio([1], [4])
    told = as_json({"n": 3, "a": one, "some": [one, other], "deep": {"of": {"x": other}, "y": []}})
    assert json.loads(json.dumps(told)) == {
        "n": 3, "a": 0.5, "a_interval": [0.5, 0.5],
        "some": [0.5, 0.25], "some_interval": [[0.5, 0.5], None],
        "deep": {"of": {"x": 0.25}, "of_interval": {"x": None}, "y": []},
    }  # fmt: skip


# --- what is kept


def test_what_is_kept_outlives_the_process_and_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a" / "kept.jsonl"
    kept: Journal[Any] = Journal(path, lambda value: value)
    assert not path.exists()
    kept["a"], kept["b"] = [1.5], "b"
    path.write_bytes(path.read_bytes()[:-2])
    again: Journal[Any] = Journal(path, lambda value: value)
    assert again == {"a": [1.5]}
    again["c"] = 2
    assert Journal(path, lambda value: value) == {"a": [1.5], "c": 2}
    path.write_bytes(path.read_bytes() + b"\n" + b"[" * 3000)
    assert Journal(path, lambda value: value) == {"a": [1.5], "c": 2}


def test_keys_tell_apart_what_decides() -> None:
    assert key_of("KL", (1, 2)) == key_of("KL", (1, 2)) != key_of("KL", (1,), 2)


# --- scripts


def test_scripts_are_not_what_presets_are_fitted_on() -> None:
    fitted = {*general_prompts("fit"), *general_prompts("held_out"), *general_prompts("neutral")}
    said = {turn for chat in chats() for turn in chat}
    asked = [one.question for one in all_overrides()]
    assert len(asked) == len(set(asked)) == 50
    assert not fitted & (said | set(asked))
    assert not said & set(asked)


def test_each_chat_is_asked_backwards_too() -> None:
    found = chats()
    assert {len(chat) for chat in found} == {10}
    assert [chat[::-1] for chat in found[::2]] == found[1::2]
    assert {chat[0] for chat in found} == {chat[-1] for chat in found}
    assert chats(2) == found[:2]


def test_every_shipped_prompt_is_reworded_and_shows_no_other_examples() -> None:
    presets = [load_preset(str(path)) for path in sorted(shipped_folder().glob("*.yaml"))]
    for preset in presets:
        other, teacher = reworded(preset), preset.teacher
        assert (other is None) == (teacher is None)
        if other and teacher:
            assert other.system != teacher.system
            assert other.examples == teacher.examples[::-1]
    assert reworded(PRESET) is None


def test_an_override_is_pasted_behind_its_question() -> None:
    assert Override("appeal", "Why?", "Please.").message == "Why?\n\nPlease."


# --- arms


def test_arms_bring_a_preset_in_by_what_they_are_named_for(
    model: Model, template: ChatTemplate
) -> None:
    mix, pirate = planted(model), load_preset("pirate")
    assert pirate.teacher
    arms = arms_of(pirate, mix)
    assert list(arms) == [BARE, PROMPTED, PARAPHRASED, STEERED, ANSWER_ONLY, BOTH]
    assert list(arms_of(PRESET, planted(model, "all"))) == [BARE, PROMPTED, STEERED, BOTH]
    chat: list[Message] = [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Hu"},
    ]  # fmt: skip
    bare, prompted, _, steered, only, both = (arm.prompt(template, chat) for arm in arms.values())
    assert bare.tokens == steered.tokens == only.tokens
    assert (len(bare.responses), len(steered.responses), len(only.responses)) == (0, 1, 0)
    assert len(both.tokens) < len(prompted.tokens)
    assert both.tokens != bare.tokens
    assert [bool(arm.mix) for arm in arms.values()] == [False, False, False, True, True, True]


# --- distances


def whole_chat(
    reader: Reader, template: ChatTemplate, chat: Dialogue, arm: Arm
) -> list[torch.Tensor]:
    """The log-probabilities of each reply's rows, of one reading of the chat to its end."""
    last = len(chat.questions) - 1
    prompt, reply = chat.prompt(last, arm, template), chat.replies[last].tokens
    reader.context.clear()
    rows = reply_rows(prompt, reply, arm.mix, output_from=0)
    fresh = Reader(reader.context)
    logits = []
    for batch in fresh.decode(rows):
        logits += [fresh.context.logits(i).copy() for i in range(batch.end - batch.begin)]
    found = torch.log_softmax(torch.from_numpy(np.stack(logits)).double(), -1)
    begins = [
        len(chat.prompt(turn, arm, template).tokens) - 1 for turn in range(len(chat.questions))
    ]
    return [
        found[begin : begin + len(each.tokens) + 1]
        for begin, each in zip(begins, chat.replies, strict=True)
    ]


def test_distances_are_those_of_one_reading_of_the_whole_chat(
    model: Model, template: ChatTemplate
) -> None:
    vocab = model.vocab
    said = [vocab.tokenize(text) for text in (" a b c", " d e", " f")]
    chat = Dialogue(SCRIPTS[0][:3], tuple(CachedReply(tuple(x), vocab.text(x)) for x in said))
    arms = arms_of(PRESET, planted(model))
    others = {name: (chat, arms[name]) for name in (BARE, STEERED, ANSWER_ONLY, PROMPTED)}
    kept: dict[str, Any] = {}
    with reading(model, 512) as reader:
        found = distances(
            reader, template, (chat, arms[PROMPTED]), others, range(3), kept
        )
        own = whole_chat(reader, template, chat, arms[PROMPTED])
        for name in (BARE, STEERED):
            other = whole_chat(reader, template, chat, arms[name])
            expected = [
                float((p.exp() * (p - q)).sum()) for p, q in zip(own, other, strict=True)
            ]
            assert found[name] == pytest.approx(expected, rel=0.03)
    assert found[PROMPTED] == pytest.approx([0] * 3, abs=1e-6)
    assert found[ANSWER_ONLY][0] == found[STEERED][0]
    assert found[ANSWER_ONLY][2] != pytest.approx(found[STEERED][2], rel=1e-3)
    assert len(kept) == 4


def test_what_is_kept_is_not_read_again(model: Model, template: ChatTemplate) -> None:
    chat = Dialogue(SCRIPTS[0][:1], (CachedReply((5, 6), "x"),))
    arms, kept = arms_of(PRESET, planted(model)), dict[str, Any]()
    with reading(model, 256) as reader:
        ask = (reader, template, (chat, arms[PROMPTED]), {"a": (chat, arms[BARE])}, range(1), kept)
        first = distances(*ask)
        kept |= {key: [7.0] for key in kept}
        assert distances(*ask) == {"a": [7.0]} != first
        stronger = Arm(mix=2.0 * planted(model))
        assert len(kept) == 1
        distances(*ask[:3], {"a": (chat, stronger)}, range(1), kept)
        assert len(kept) == 2


# --- chats


def test_a_chat_hears_its_own_replies_and_is_steered_turn_by_turn(
    model: Model, template: ChatTemplate
) -> None:
    arms, cache = arms_of(PRESET, planted(model)), dict[str, CachedReply]()
    with closing(Engine(model, n_ctx=512, n_threads=1)) as engine:
        def chat(*names: str) -> Dialogue:
            return converse(
                engine, template, SCRIPTS[0][: len(names)], [arms[name] for name in names],
                n_tokens=N_TOKENS, cache=cache,
            )  # fmt: skip

        bare, steered = chat(BARE, BARE), chat(STEERED, STEERED)
        assert bare.replies[0] != steered.replies[0]
        assert chat(STEERED, BARE).replies[0] == steered.replies[0]
        assert len(cache) == 5
    heard: list[Message] = [
        {"role": "user", "content": SCRIPTS[0][0]},
        {"role": "assistant", "content": bare.replies[0].text},
        {"role": "user", "content": SCRIPTS[0][1]},
    ]
    assert bare.prompt(1, arms[BARE], template) == arms[BARE].prompt(template, heard)


def test_a_reply_is_not_that_of_an_arm_which_steers_elsewhere_in_the_same_text(
    model: Model, template: ChatTemplate
) -> None:
    """Earlier answers are steered by the one arm, and by the other not."""
    arms, cache = arms_of(PRESET, planted(model)), dict[str, CachedReply]()
    with closing(Engine(model, n_ctx=512, n_threads=1)) as engine:
        steered, only = (
            converse(engine, template, SCRIPTS[0], [arms[name]] * 4, n_tokens=N_TOKENS, cache=cache)
            for name in (STEERED, ANSWER_ONLY)
        )
    prompts = [chat.prompt(3, arms[STEERED], template).tokens for chat in (steered, only)]
    assert prompts[0] == prompts[1]
    assert len(cache) == 7  # the first reply has nothing before it


def interval_ends(told: Any, *, inside: bool = False) -> Iterator[float]:
    """All ends of intervals in a report."""
    if isinstance(told, dict):
        for name, its in told.items():
            yield from interval_ends(its, inside=inside or name.endswith("_interval"))
    elif isinstance(told, list):
        for its in told:
            yield from interval_ends(its, inside=inside)
    elif inside and told is not None:
        yield told


GAPS = [{turns.APART: [2.0, 3.0], "x": left} for left in ([1.0, 2.0], [0.5, 0.25], [1.5, 0.5])]


def twice(some: Sequence[Any]) -> list[Any]:
    return [each for each in some for _ in range(2)]


def test_what_a_script_says_twice_is_said_once() -> None:
    """Its two ways are no two draws: were they alike, intervals would be those of one."""
    chat = Dialogue(SCRIPTS[0][:2], (CachedReply((1, 2, 3), "a"), CachedReply((1,), "b")))
    apart, left = (np.array([gap[of] for gap in GAPS]) for of in (turns.APART, "x"))
    closed, gap = (apart - left).T, apart.T
    found = turns._closed("x", [chat] * 6, twice(GAPS), 2)
    assert found["left"] == [ratio(left.T[0], [4] * 3), ratio(left.T[1], [2] * 3)]
    assert found["gap_closed"] == [ratio(closed[0], gap[0]), ratio(closed[1], gap[1])]
    assert found["gap_closed_over_all"] == ratio(closed.sum(0), gap.sum(0))
    assert found["gap_closed_change"] == change((closed[1], gap[1]), (closed[0], gap[0]))
    behind = [{"switched": gap["x"], "other": gap[turns.APART]} for gap in GAPS]
    assert turns._nearness(twice(behind)) == found["gap_closed_over_all"]


def test_checks_that_are_always_kept_leave_doubt() -> None:
    """Of two scripts, however many replies each has."""
    reply = CachedReply((1, 2, 3, 4, 1, 2, 3, 4), "few words")
    chats = [Dialogue(SCRIPTS[0], (reply,) * 4)] * 4
    found = turns._replies(PRESET, chats, 4)
    assert found["checks_over_all"] == share([1, 1])
    assert found["checks"] == [share([1, 1])] * 4
    assert found["checks_change"] == share_change([1, 1], [1, 1])
    assert found["limit"] == [share([0, 0])] * 4
    assert found["again"] == [share([0, 0]), *[share([1, 1])] * 3]
    assert found["repetition"] == [ratio([1, 1], [5, 5])] * 4
    behind = turns._kept_behind(PRESET, {"x": chats}, ["x"], 2)
    assert behind == {"x": share([1, 1])}
    alone = turns._replies(PRESET, chats[:2], 4)
    assert alone["checks_over_all"].interval is None


def test_the_two_ways_of_a_script_are_put_together() -> None:
    assert list(by_script([1, 2, 3, 4])) == [3, 7]
    assert list(by_script([True, True, True])) == [2, 1]  # the last was asked one way


def test_over_turns_what_does_nothing_closes_nothing_and_the_prompt_itself_all(
    model: Model, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = PRESET.teacher
    monkeypatch.setattr(turns, "arms_of", lambda _preset, mix: {
        BARE: Arm(), PROMPTED: Arm(teacher), STEERED: Arm(mix=mix), "idle": Arm(),
        "same": Arm(teacher),
    })  # fmt: skip
    told = measure_turns(PRESET, planted(model), model)
    assert (told["n_chats"], told["n_scripts"], told["n_turns"]) == (2, 1, 4)
    assert not list(interval_ends(told))  # of one script there are none
    arms = told["arms"]
    assert "gap_closed" not in arms[PROMPTED]
    assert arms["idle"]["gap_closed"] == arms[BARE]["gap_closed"]
    assert arms["idle"]["gap_closed"][0] == 0
    assert arms["idle"]["left"][0] == told["gap"][0]
    assert arms["same"]["gap_closed"] == pytest.approx([1] * 4, abs=1e-4)
    assert arms["same"]["gap_closed_change"] == pytest.approx(0, abs=1e-4)
    assert all(gap > 0 for gap in told["gap"])
    assert arms["idle"]["checks"] == arms[BARE]["checks"]
    assert all(0 <= share <= 1 for share in arms[STEERED]["limit"])
    switched = told["switched"]
    assert list(switched) == ["off", "on"]
    assert list(switched["on"]["checks"]) == [BARE, "on", STEERED, "prompt_on"]
    assert switched["on"]["nearness"] <= 1
    assert list(short.glob("measuring/*.jsonl"))

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("asked or read again")

    monkeypatch.setattr(Engine, "generate", refused)
    monkeypatch.setattr("steerplug.evaluate.dialogue.reply_log_probs", refused)
    assert measure_turns(PRESET, planted(model), model) == told


def test_a_chat_that_was_never_other_is_as_near_as_can_be(
    model: Model, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched before its first reply, a chat is what it would have been."""
    del short
    monkeypatch.setattr(turns, "chats", lambda _n: [chat[:1] for chat in SCRIPTS])
    told = measure_turns(PRESET, planted(model), model)
    assert [told["switched"][name]["nearness"] for name in ("off", "on")] == [1, 1]


# --- overrides


def test_overrides_count_what_is_kept_alone_and_behind_them(
    model: Model, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del short
    some = [Override("a", "Why?", "Please."), Override("a", "How?", "Please."),
            Override("b", "What?", "No.")]  # fmt: skip
    monkeypatch.setattr(overrides, "overrides", lambda: some)

    def answer(_engine: Engine, request: Any, _cache: ReplyCache) -> CachedReply:
        asked = model.vocab.text(list(request.prompt.tokens))
        kept = bool(request.mix) or "Please" not in asked
        return CachedReply((1,), "few words" if kept else "so many words that it fails")

    monkeypatch.setattr(overrides, "ask", answer)
    told = measure_overrides(PRESET, planted(model), model)
    assert list(told["arms"]) == [BARE, PROMPTED, STEERED, BOTH]
    bare, steered = told["arms"][BARE], told["arms"][STEERED]
    assert (bare["plain"], bare["change"]) == (1, pytest.approx(-2 / 3, abs=1e-4))
    assert bare["pasted"] == pytest.approx(1 / 3, abs=1e-4)
    assert bare["by_kind"] == {"a": 0, "b": 1}
    assert (steered["plain"], steered["pasted"], steered["change"]) == (1, 1, 0)
    assert steered["change_interval"][0] < 0 < steered["change_interval"][1]


def test_what_is_kept_is_of_one_model(short: Path) -> None:
    """Two quantisations differ in the hash alone, behind architecture and sizes."""
    one, other = (f"qwen3next-2048x48-{digit * 64}" for digit in "ab")
    reply_journal(one)["x"] = CachedReply((1, 2), "hi")
    figure_journal(one)["y"] = 1.5
    assert reply_journal(one) == {"x": CachedReply((1, 2), "hi")}
    assert figure_journal(one) == {"y": 1.5}
    assert reply_journal(other) == figure_journal(other) == {}
    assert len(list((short / "measuring").iterdir())) == 2
