"""A preset that a chain names is compiled in idle time, and then costs it no tokens."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerplug.langchain import ChatSteerplug
from steerplug.session.shared import forget_sessions, session_for
from tests.helpers.presets import SAD_PRESET

SAD: Any = {"configurable": {"steering": "sad"}}
KNIGHT = """\
schema: steerplug/preset-v1
name: knight
teacher: {system: You are a knight who says Ni to everyone.}
"""


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "sad.yaml").write_text(SAD_PRESET)
    (tmp_path / "knight.yaml").write_text(KNIGHT)
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    forget_sessions()
    yield
    forget_sessions()


def chat(**fields: Any) -> ChatSteerplug:
    return ChatSteerplug(n_ctx=512, n_threads=1, temperature=0, max_tokens=8, **fields)


def test_what_a_call_names_is_compiled_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(compile="background")
    compiler = session_for("smollm2", model.loading()).compiler
    asked = list[str]()
    monkeypatch.setattr(compiler, "ask", asked.append)
    model.invoke("Hi", {"configurable": {"steering": "knight + pirate"}})
    assert asked == ["knight"]  # the other came compiled
    chat().invoke("Hi", {"configurable": {"steering": "knight"}})
    assert asked == ["knight"]  # nobody asked for it


def test_what_failed_is_not_tried_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(compile="background")
    session = session_for("smollm2", model.loading())
    monkeypatch.setattr("sys.executable", "/bin/false")
    model.invoke("Hi", steering="knight")
    deadline = time.monotonic() + 60
    while (job := session.compiler.jobs["knight"]).state != "failed":
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    reply = model.invoke("Hi", steering="knight")
    assert reply.response_metadata["steering"]["carrier"] == "prompt"
    assert session.compiler.jobs["knight"] == job


def test_a_chain_is_steered_once_its_preset_is_compiled() -> None:
    model = chat(compile="background")
    session = session_for("smollm2", model.loading())
    with pytest.raises(Exception, match="no prompt can carry a contrast"):
        model.invoke("Hi", SAD)
    deadline = time.monotonic() + 300
    while session.compiler.jobs["sad"].state != "done":
        assert session.compiler.jobs["sad"].state != "failed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    receipt = model.invoke("Hi", SAD).response_metadata["steering"]
    assert (receipt["carrier"], receipt["prompt_tokens"]) == ("steering", 0)
    assert receipt["tokens_steered"] > 0


@pytest.mark.parametrize(("carrier", "told"), [("prompt", "prompt"), ("steering", "steering")])
def test_a_carrier_is_said_by_field_call_and_config(carrier: Any, told: str) -> None:
    config: Any = {"configurable": {"steering": "pirate", "carrier": carrier}}
    replies = [
        chat(steering="pirate", carrier=carrier).invoke("Hi"),
        chat().invoke("Hi", steering="pirate", carrier=carrier),
        chat().invoke("Hi", config),
    ]
    assert {r.response_metadata["steering"]["carrier"] for r in replies} == {told}
    assert len({r.text for r in replies}) == 1


def test_the_cache_keeps_carriers_apart() -> None:
    keys = {chat(steering="pirate", carrier=c)._get_llm_string() for c in (None, "prompt", "both")}
    assert len(keys) == 3


def test_an_unknown_carrier_is_one_sentence() -> None:
    with pytest.raises(Exception, match="carrier is 'promt'"):
        chat(carrier="promt")
