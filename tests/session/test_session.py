"""The one thing the doors talk to: words into steering, and a receipt for every reply.

Presets here are planted: their files hold random vectors of a known size, put into the store under
the preset's own key, so that nothing is fitted. One test fits for real.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from steerplug.build import store_key
from steerplug.chat.template import ChatTemplate
from steerplug.chat.tool import Tools
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Piece
from steerplug.engine.model import Model
from steerplug.engine.sampler import Sampling
from steerplug.errors import (
    ContextOverflow,
    EngineError,
    ModelError,
    ModelNotFound,
    PresetError,
    PresetNotFound,
    RequestError,
    SteeringError,
    StrengthError,
)
from steerplug.fit import measure
from steerplug.library.presets import load_preset
from steerplug.preset import Preset
from steerplug.session import Session, Settings
from steerplug.session.receipt import Receipt, Reply
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import NOTHING, Delta, Mix, Steering
from steerplug.store.store import Store
from tests.helpers.families import NOW
from tests.helpers.thinking import Script, scripted, template

CHAT = [{"role": "user", "content": "Tell me something about the sea."}]
GREEDY = Settings(Sampling(temperature=0), max_tokens=8)
SIZE, LAYERS = 25.0, (8, 14)


def yaml_of(name: str, **changes: Any) -> str:
    said: dict[str, Any] = {
        "schema": "steerplug/preset-v1",
        "name": name,
        "version": "1.2.3",
        "description": f"More of {name}.",
        "contrast": {"positive": f"All is {name}.", "negative": "All is as it was."},
        "fit": {"method": "mean", "layers": list(LAYERS), "coefficient": 1.0},
        "strength": {"default": 0.75, "min": -1.0, "max": 2.0},
    }
    said.update(changes)
    return yaml.safe_dump({key: value for key, value in said.items() if value is not None})


def steering(name: str, n_embd: int = 576, n_layer: int = 30) -> Steering:
    rng = np.random.default_rng(list(name.encode()))
    deltas = {}
    for il in LAYERS:
        z = rng.standard_normal(n_embd)
        deltas[il] = Delta.constant((SIZE * z / np.linalg.norm(z)).astype(np.float32))
    return Steering(name, n_embd, n_layer, deltas)


def identity(preset: Preset, model: Model, chat_template: str = "") -> Identity:
    return Identity(
        preset.name, preset.version, preset.digest, model.fingerprint, model.architecture,
        chat_template, preset.fit.method, 0, "0.1.0", preset.strength.default,
        preset.strength.min, preset.strength.max,
    )  # fmt: skip


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session(
        "smollm2", n_ctx=512, n_threads=1, store=Store(tmp_path_factory.mktemp("store"))
    )
    yield session
    session.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    return tmp_path


Plant = Callable[..., Steering]


@pytest.fixture
def plant(session: Session, folder: Path) -> Plant:
    """Write a preset, and put its steering into the store."""

    def planted(name: str, **changes: Any) -> Steering:
        text = yaml_of(name, **changes)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        preset = Preset.from_yaml(text.encode())
        key, made = store_key(preset, session.engine), steering(name + preset.digest)
        made = replace(made, name=name)
        session.store.publish(key, made, identity(preset, session.model, key.chat_template))
        return made

    return planted


def say(session: Session, words: Any, settings: Settings = GREEDY) -> Reply:
    return session.chat(CHAT, words, settings)


# Words into steering


@pytest.mark.parametrize("words", [None, "none", " none ", NOTHING, "0*glad", "glad - glad"])
def test_nothing_asked_for_is_nothing_applied(session: Session, plant: Plant, words: Any) -> None:
    plant("glad")
    mix, ingredients = session.steering(words)
    assert mix == NOTHING
    assert ingredients == ()
    reply = say(session, words)
    assert reply.receipt == Receipt((), "", 0, 0.0)
    assert reply.text == say(session, None).text


def test_a_name_alone_means_its_default_strength(session: Session, plant: Plant) -> None:
    glad = plant("glad")
    assert session.steering("glad")[0] == 0.75 * glad
    assert session.steering("-glad")[0] == -0.75 * glad


def test_a_mix_in_words_is_the_mix_of_values(session: Session, plant: Plant) -> None:
    glad, calm = plant("glad"), plant("calm")
    mix, said = session.steering("0.5*glad - 1.25*calm")
    assert mix == 0.5 * glad - 1.25 * calm
    assert [(one.name, one.strength) for one in said] == [("glad", 0.5), ("calm", -1.25)]
    assert say(session, "0.5*glad - 1.25*calm").text == say(session, mix).text


def test_values_are_taken_as_they_are(session: Session) -> None:
    glad, calm = steering("glad"), steering("calm")
    assert session.steering(glad)[0] == 1.0 * glad
    mix, said = session.steering(3.0 * glad - calm)
    assert mix == 3.0 * glad - calm
    assert {(one.name, one.strength, one.version) for one in said} == {
        ("glad", 3.0, ""), ("calm", -1.0, "")
    }  # fmt: skip
    assert say(session, glad).text != say(session, None).text


def test_a_preset_said_twice_is_one_ingredient_of_the_receipt(
    session: Session, plant: Plant
) -> None:
    glad = plant("glad")
    mix, said = session.steering("0.5*glad + 1.25*glad")
    assert mix == 1.75 * glad
    assert [(one.name, one.strength) for one in said] == [("glad", 1.75)]


@pytest.mark.parametrize(
    ("words", "total"),
    [("2.5*glad", "2.5"), ("-2.5*glad", "-2.5"), ("1.5*glad + 1.5*glad", "3"),
     ("-1.5*glad - 1.5*glad", "-3"), ("glad + glad + glad", "2.25"), ("1e9*glad", "1e+09")],
)  # fmt: skip
def test_a_strength_beyond_the_preset_s_range_is_refused_however_it_is_said(
    session: Session, plant: Plant, words: str, total: str
) -> None:
    plant("glad")
    with pytest.raises(StrengthError) as caught:
        session.steering(words)
    assert str(caught.value) == (
        f"strength {total} is beyond the range of `glad`; give a number from -2 to 2."
    )


def test_by_name_and_by_path_it_is_the_same_preset(
    session: Session, plant: Plant, folder: Path
) -> None:
    plant("glad")
    with pytest.raises(StrengthError, match="strength 3 is beyond"):
        session.steering(f'1.5*glad + 1.5*"{folder / "glad.yaml"}"')


def test_what_adds_up_to_the_end_of_the_range_is_within_it(session: Session, plant: Plant) -> None:
    glad = plant("glad")
    words = " + ".join(["0.1*glad"] * 15 + ["0.5*glad"])  # 2.0000000000000004 in floating point
    assert session.steering(words)[0] == 2.0 * glad


def test_two_presets_are_judged_each_by_its_own_range(session: Session, plant: Plant) -> None:
    plant("glad")
    plant("calm", strength={"max": 5.0})
    assert len(session.steering("2*glad + 5*calm")[1]) == 2
    with pytest.raises(StrengthError, match="of `glad`"):
        session.steering("3*glad + 3*calm")


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ("glda", PresetNotFound, "there is no preset `glda`; did you mean `glad`?"),
        ("0.5*", PresetError, "cannot be read at its end"),
        ("", PresetError, "the mix is empty"),
        ("nan*glad", StrengthError, "not a finite number"),
        ("inf*glad", StrengthError, "not a finite number"),
        ("./nowhere.gguf", PresetNotFound, "there is no preset file"),
    ],
)
def test_wrong_words_are_refused_by_the_call_itself(
    session: Session, plant: Plant, words: str, kind: type[Exception], said: str
) -> None:
    plant("glad")
    with pytest.raises(kind, match=re.escape(said)):
        session.stream_chat(CHAT, words, GREEDY)


def test_a_preset_is_built_once_when_asked_to_and_then_used(
    session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])
    told: list[str] = []
    monkeypatch.setattr(session, "report", lambda what, _done, _total: told.append(what))
    text = yaml_of("furious", fit={"method": "mean", "layers": [16], "coefficient": 0.5})
    (folder / "furious.yaml").write_text(text, encoding="utf-8")
    session.build(load_preset("furious"))
    assert "reading activations" in told
    reply = say(session, "furious")
    assert [one.layers for one in reply.receipt.steering] == [(16,)]
    assert reply.receipt.mean_moved > 0
    told.clear()
    assert session.build(load_preset("furious")).steering.digest == reply.receipt.steering[0].digest
    assert told == []


def test_an_edited_preset_is_used_without_a_restart(session: Session, plant: Plant) -> None:
    one = plant("glad")
    assert session.steering("1*glad")[0] == 1.0 * one
    other = plant("glad", contrast={"positive": "Gladder.", "negative": "Sad."}, version="2.0.0")
    assert one.digest != other.digest
    mix, (said,) = session.steering("1*glad")
    assert mix == 1.0 * other
    assert said.version == "2.0.0"


def test_an_edited_range_is_used_without_a_restart(session: Session, plant: Plant) -> None:
    plant("glad")
    session.steering("2*glad")
    plant("glad", strength={"default": 0.25, "max": 1.0})
    assert session.steering("glad")[1][0].strength == 0.25
    with pytest.raises(StrengthError, match="from -1 to 1"):
        session.steering("2*glad")


# Files of numbers


def preset_of(name: str) -> Preset:
    return Preset.from_yaml(yaml_of(name).encode())


@pytest.fixture
def write(session: Session, folder: Path) -> Callable[..., Path]:
    def written(name: str = "shared", n_embd: int = 576, n_layer: int = 30, **said: Any) -> Path:
        path = folder / f"{name}.gguf"
        whose = replace(identity(preset_of(name), session.model), **said)
        write_steering(path, steering(name, n_embd, n_layer), whose)
        return path

    return written


def test_a_steering_file_is_used_by_its_path(
    session: Session, write: Callable[..., Path]
) -> None:
    path, expected = write(), steering("shared")
    assert session.steering(f'"{path}"')[0] == 0.75 * expected
    mix, (said,) = session.steering(f'-1.5*"{path}"')
    assert mix == -1.5 * expected
    assert (said.name, said.version, said.strength) == ("shared", "1.2.3", -1.5)
    assert said.digest == expected.digest


def theirs_at(path: Path, count: str, il: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Write a control vector of ones at one block as another tool would; return the vector."""
    import gguf

    z = np.ones(576, np.float32)
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    getattr(writer, count)("controlvector.layer_count", 1)
    writer.add_tensor(f"direction.{il}", z)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return z


@pytest.mark.parametrize(("count", "warned"), [("add_int32", True), ("add_uint32", False)])
def test_a_file_that_acts_a_block_late_is_used_with_one_warning(
    session: Session, folder: Path, caplog: pytest.LogCaptureFixture, count: str, warned: bool
) -> None:
    path = folder / f"{count}.gguf"
    theirs_at(path, count, 1)
    for _ in range(2):
        mix, _ = session.steering(f'"{path}"')
        assert set(mix.terms[0].steering.layers) == {1}
    assert ["one block later" in record.message for record in caplog.records] == [True] * warned


def test_a_control_vector_by_others_has_strength_1_and_no_range(
    session: Session, folder: Path
) -> None:
    path = folder / "theirs.gguf"
    z = theirs_at(path, "add_uint32", 14)
    theirs = Steering("theirs", 576, 30, {14: Delta.constant(z)})
    mix, (said,) = session.steering(f'"{path}"')
    assert mix == 1.0 * theirs
    assert (said.name, said.version) == ("theirs", "")
    assert session.steering(f'50*"{path}"')[0] == 50.0 * theirs


@pytest.mark.parametrize("words", ["2.5*{}", "1.5*{} + 1.5*{}", "-2.5*{}"])
def test_a_file_is_judged_by_the_range_it_was_made_for(
    session: Session, write: Callable[..., Path], words: str
) -> None:
    path = write()
    with pytest.raises(StrengthError, match=r"beyond the range of `shared`; give a number from -2"):
        session.steering(words.format(f'"{path}"', f'"{path}"'))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"n_embd": 512}, "576"),
        ({"n_layer": 28}, "30"),
        ({"architecture": "qwen2"}, r"for the architecture `qwen2`, and .* is `llama`; build the"),
    ],
)
def test_a_file_for_another_model_is_refused(
    session: Session, write: Callable[..., Path], said: dict[str, Any], reason: str
) -> None:
    path = write(**said)
    with pytest.raises(SteeringError, match=reason):
        session.chat(CHAT, f'"{path}"', GREEDY)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"model": "llama-576x30-0"}, "another quantisation, version or LoRA of the model; it is"),
        ({"outer_norms": "0" * 64}, "another model of the same shape; it is used as it is, and"),
        ({"chat_template": "0" * 64}, "another chat template; it is used as it is"),
        ({}, ""),
    ],
)
def test_a_file_for_nearly_this_model_is_used_with_one_warning(
    session: Session, write: Callable[..., Path], caplog: pytest.LogCaptureFixture,
    said: dict[str, Any], reason: str,
) -> None:  # fmt: skip
    path = write("near", **said)
    for _ in range(2):
        assert session.steering(f'"{path}"')[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * bool(reason)
    assert reason in caplog.text


def test_a_torn_file_is_refused(session: Session, write: Callable[..., Path]) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SteeringError, match=r"shared\.gguf"):
        session.chat(CHAT, f'"{path}"', GREEDY)


@pytest.mark.parametrize(("n_embd", "n_layer"), [(512, 30), (576, 28)])
def test_a_value_for_another_model_is_refused(
    session: Session, n_embd: int, n_layer: int
) -> None:
    other = steering("other", n_embd, n_layer)
    for words in (other, 2.0 * other):
        with pytest.raises(EngineError, match=r"`other` is for a model of \(n_embd, n_layer\)"):
            session.stream_chat(CHAT, words, GREEDY)


# Receipts


def test_a_receipt_says_what_was_applied(session: Session, plant: Plant) -> None:
    glad, calm = plant("glad"), plant("calm")
    reply = say(session, "1.5*glad - 0.5*calm")
    receipt = reply.receipt
    one, other = receipt.steering
    assert (one.name, one.version, one.strength, one.digest) == ("glad", "1.2.3", 1.5, glad.digest)
    assert (one.layers, one.scope, one.format) == (LAYERS, "response", "")
    assert (other.name, other.strength, other.digest) == ("calm", -0.5, calm.digest)
    assert receipt.digest == (1.5 * glad - 0.5 * calm).digest
    # The boundary token and each token that was decoded, which the last one never is.
    assert receipt.tokens_steered == reply.usage.completion_tokens
    assert 0.01 < receipt.mean_moved < 10


def test_harder_steering_moves_more(session: Session, plant: Plant) -> None:
    plant("glad")
    moved = [say(session, f"{s}*glad").receipt.mean_moved for s in (0.25, 0.5, 1.0)]
    assert moved[1] == pytest.approx(2 * moved[0], rel=0.2)
    assert moved[0] < moved[1] < moved[2]


def test_a_receipt_does_not_depend_on_the_cache(session: Session, plant: Plant) -> None:
    plant("glad")
    replies = [say(session, "glad"), say(session, "glad"), say(session, None), say(session, "glad")]
    assert replies[1].usage.cached_tokens == replies[1].usage.prompt_tokens - 1
    for reply in (replies[1], replies[3]):
        assert reply.text == replies[0].text
        assert reply.receipt.tokens_steered == replies[0].receipt.tokens_steered
        assert reply.receipt.mean_moved == pytest.approx(replies[0].receipt.mean_moved, rel=1e-2)


def test_a_reply_is_plain_json(session: Session, plant: Plant) -> None:
    plant("glad")
    reply = say(session, "glad")
    said = json.loads(json.dumps(reply.to_dict()))
    assert set(said) == {
        "text", "finish_reason", "usage", "receipt", "seed", "seconds", "seconds_to_first",
        "tool_calls", "reasoning",
    }  # fmt: skip
    assert said["receipt"]["steering"][0]["name"] == "glad"
    assert said["usage"] == {
        "prompt_tokens": len(session.template.prompt(CHAT).tokens), "completion_tokens": 8,
        "cached_tokens": reply.usage.cached_tokens, "reasoning_tokens": 0,
    }  # fmt: skip
    assert said["finish_reason"] == "length"
    assert 0 < said["seconds_to_first"] <= said["seconds"]


def test_steering_that_acts_on_no_token_is_an_error_and_not_a_silence(
    session: Session, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("glad")
    monkeypatch.setattr("steerplug.engine.scope.lay_out", lambda *_: None)
    with pytest.raises(EngineError, match="steering was asked for and acted on no token; run `ste"):
        say(session, "glad")


# Replies


def test_a_stream_is_pieces_and_then_the_reply(session: Session, plant: Plant) -> None:
    plant("glad")
    *pieces, reply = session.stream_chat(CHAT, "glad", GREEDY)
    assert isinstance(reply, Reply)
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == reply.text
    assert reply.text == say(session, "glad").text
    assert reply.text != say(session, None).text


def test_a_preset_of_json_holds_the_reply_to_json(session: Session, plant: Plant) -> None:
    plant("data", decoding={"format": "json"})
    warm = Settings(Sampling(temperature=1.0, seed=4), max_tokens=150)
    reply = say(session, "0.2*data", warm)
    assert reply.receipt.steering[0].format == "json"
    assert reply.text.startswith("{")
    assert reply.finish_reason == "length" or isinstance(json.loads(reply.text), dict)
    assert not say(session, None, warm).text.startswith("{")


@pytest.mark.parametrize("words", ["-0.2*data", "0*data", "0.2*data - 0.5*data", "data - data"])
def test_a_preset_that_is_taken_away_does_not_ask_for_its_format(
    session: Session, plant: Plant, words: str
) -> None:
    plant("data", decoding={"format": "json"})
    reply = say(session, words)
    assert not reply.text.startswith("{")
    assert all(one.format == "" for one in reply.receipt.steering)


def test_a_preset_leaves_out_phases_of_a_reply(session: Session, plant: Plant) -> None:
    plant("data", decoding={"format": "json", "unsteered": ["constrained"]})
    plant("glad")
    (said,) = session.steering("data")[1]
    assert said.unsteered == ("constrained",)
    bare = say(session, None, replace(GREEDY, format={"type": "object"}))
    reply = say(session, "data + glad")
    assert (reply.text, reply.receipt.tokens_steered) == (bare.text, 0)
    assert say(session, "glad", replace(GREEDY, format=ANY_JSON)).receipt.tokens_steered > 0
    assert session.steering("-0.2*data")[1][0].unsteered == ()


def test_plain_text_is_continued_without_a_template(session: Session, plant: Plant) -> None:
    plant("glad")
    bare = session.complete("The sea is", None, GREEDY)
    assert bare.usage.prompt_tokens == len(session.model.vocab.tokenize("The sea is"))
    assert bare.text
    steered = session.complete("The sea is", "2*glad", GREEDY)
    assert steered.text != bare.text
    assert steered.receipt.tokens_steered == 8
    *_, last = session.stream_complete("The sea is", "2*glad", GREEDY)
    assert isinstance(last, Reply)
    assert last.text == steered.text


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda s: s.stream_chat([], None, GREEDY), RequestError, "list of messages is empty"),
        (lambda s: s.stream_chat([{"role": "x", "content": ""}]), RequestError, "has the role 'x'"),
        (lambda s: s.stream_complete(""), RequestError, "the prompt is empty"),
        (lambda s: s.stream_complete("sea " * 600), ContextOverflow, "the context holds 512"),
        (lambda s: s.stream_chat(CHAT, None, Settings(max_tokens=0)), RequestError, "max_tokens"),
    ],
)  # fmt: skip
def test_errors_are_raised_by_the_call_and_not_when_the_stream_is_read(
    session: Session, call: Callable[[Session], Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        call(session)


def test_an_earlier_reply_in_the_chat_is_steered_again(session: Session, plant: Plant) -> None:
    plant("glad")
    first = say(session, "glad")
    longer: Sequence[dict[str, str]] = [
        *CHAT, {"role": "assistant", "content": first.text}, {"role": "user", "content": "More."}
    ]  # fmt: skip
    reply = session.chat(longer, "glad", GREEDY)
    n_earlier = 1 + len(session.model.vocab.tokenize(first.text))
    assert reply.receipt.tokens_steered == n_earlier + reply.usage.completion_tokens
    # The prompt, and the earlier reply but for its last token, which was drawn and never decoded.
    assert reply.usage.cached_tokens >= first.usage.prompt_tokens + n_earlier - 2


def test_a_seed_is_told_and_draws_the_same_reply_again(session: Session) -> None:
    warm = Settings(Sampling(temperature=1.5), max_tokens=12)
    session.engine.forget()  # cells of a cached prompt differ by rounding
    reply = say(session, None, warm)
    session.engine.forget()
    again = say(session, None, replace(warm, sampling=replace(warm.sampling, seed=reply.seed)))
    assert again.text == reply.text


def test_a_model_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ModelNotFound, match="no model `smolm2`; did you mean `smollm2`"):
        Session("smolm2")


def test_mixes_of_values_and_words_agree_on_their_digest(session: Session, plant: Plant) -> None:
    glad = plant("glad")
    assert say(session, "1*glad").receipt.digest == say(session, Mix.of(glad)).receipt.digest


# Thoughts


@pytest.fixture
def think(session: Session, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Give the model a template that opens a thought, and let it write what a test says."""
    monkeypatch.setattr(session, "template", template("Qwen3.5", session.model))
    return scripted(session.model, monkeypatch)


THOUGHT = "Hm, so it is.\n</think>\n\nBlue."


def test_steering_leaves_thoughts_alone_unless_somebody_asks_for_them(
    session: Session, plant: Plant, think: Script
) -> None:
    plant("glad")
    plant("deep", decoding={"steered": ["thinking"]})

    def n_steered(words: str, **said: Any) -> int:
        think(THOUGHT + "<|im_end|>")
        settings = replace(GREEDY, max_tokens=60, **said)
        reply = session.chat(CHAT, words, settings)
        assert (reply.reasoning, reply.text) == ("Hm, so it is.", "Blue.")
        return reply.receipt.tokens_steered

    n = len(session.model.vocab.tokenize(THOUGHT))
    n_answer = n_steered("glad")
    assert n_answer == len(session.model.vocab.tokenize("\n\nBlue.")) + 1
    assert n_steered("glad", steered=frozenset({"thinking"})) == n + 1
    assert n_steered("deep") == n_steered("glad + deep") == n + 1
    assert n_steered("deep", unsteered=frozenset({"thinking"})) == n_answer
    assert n_steered("glad - deep") == n_answer  # what is taken away asks for nothing


def test_a_reply_that_is_all_thought_was_steered_as_was_asked_for(
    session: Session, plant: Plant, think: Script
) -> None:
    plant("glad")
    think("Hm, so it is.")
    reply = session.chat(CHAT, "glad", replace(GREEDY, max_tokens=4))
    assert (reply.text, reply.finish_reason) == ("", "length")
    assert reply.receipt.tokens_steered == 0
    assert reply.usage.reasoning_tokens == 4


@pytest.mark.usefixtures("think")
def test_plain_text_has_its_thoughts_in_it_and_left_alone(
    session: Session, plant: Plant, think: Script
) -> None:
    plant("glad")
    think(THOUGHT + "<|im_end|>")
    reply = session.complete("Why? <think>\n", "glad", replace(GREEDY, max_tokens=60))
    assert (reply.text, reply.reasoning) == (THOUGHT, "")
    n_answer = len(session.model.vocab.tokenize("\n\nBlue.")) + 1
    assert reply.receipt.tokens_steered == n_answer
    named: tuple[tuple[str, Any], ...] = (("enable_thinking", False), ("thinking_budget_tokens", 0))
    for name, value in named:
        settings = replace(GREEDY, **{name: value})
        with pytest.raises(RequestError, match=f"{name} is for chats, and this is plain text"):
            session.complete("Why?", None, settings)


def test_a_template_that_is_broken_is_no_obstacle_to_plain_text(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ChatTemplate("{% for %}", session.model.vocab, "x")
    monkeypatch.setattr(session, "template", broken)
    assert session.complete("Rain is", None, GREEDY).text
    with pytest.raises(ModelError, match="is broken"):
        session.chat(CHAT, None, GREEDY)


NOW_CALLED = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
TURNS = {
    "Qwen3": f"<think>\nHm.\n</think>\n\n{NOW_CALLED}", "Qwen3.5": f"Hm.\n</think>\n\n{NOW_CALLED}",
    "gpt-oss": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.now"
               "<|channel|>commentary json<|message|>{}<|call|>",
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
def test_a_steered_turn_of_thoughts_and_tools_goes_on_from_its_own_cells(
    session: Session, plant: Plant, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plant("glad", contrast={"positive": f"All is {name}.", "negative": "All is as it was."})
    monkeypatch.setattr(session, "template", template(name, session.model))
    think = scripted(session.model, monkeypatch)
    settings = Settings(GREEDY.sampling, max_tokens=100, tools=Tools((NOW,)))
    think(TURNS[name] + "<|im_end|>")
    first = session.chat(CHAT, "0.01*glad", settings)
    assert (first.reasoning, first.text, len(first.tool_calls)) == ("Hm.", "", 1)
    assert (first.receipt.tokens_steered > 0) is (name != "gpt-oss")  # where frames are left alone
    assert first.receipt.tokens_steered < first.usage.completion_tokens
    (call,) = first.tool_calls
    said = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": (call,)}
    result = {"role": "tool", "content": "7", "tool_call_id": call.id, "name": "now"}
    think("Seven.<|im_end|>")
    again = session.chat([*CHAT, said, result], "0.01*glad", replace(settings, max_tokens=3))
    sent = first.usage.prompt_tokens + first.usage.completion_tokens
    assert again.usage.cached_tokens >= sent - 2
