"""Every door reads a mix once per call: words are parsed once, each preset is looked up once."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache

from steerplug.commands.main import main
from steerplug.engine.loading import Loading
from steerplug.langchain import ChatSteerplug, SteerplugLLM
from steerplug.preset.mix import Ingredient
from steerplug.session.shared import session_for
from tests.helpers.presets import SAD_PRESET
from tests.helpers.serving import state

MIX = "0.5*sad"
ONCE = {"parsed": 1, "looked up": 1, "read": 1}
LOADING = Loading(n_ctx=512, n_threads=1)
FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "n_ctx": 512, "n_threads": 1}


@pytest.fixture
def counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a mix was parsed, the user's folder looked through, and the preset's file read."""
    session_for("smollm2", LOADING).steering(MIX)
    counted, sad = Counter[str](), folder / "sad.yaml"

    def count(owner: type, name: str, what: str, path: Path | None) -> None:
        original = getattr(owner, name)

        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            counted[what] += path is None or self == path
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(Ingredient, "__post_init__", "parsed", None)
    count(Path, "iterdir", "looked up", folder)
    count(Path, "open", "read", sad)
    return counted


async def drained(chunks: AsyncIterator[Any]) -> None:
    async for _ in chunks:
        pass


def steered(kind: type[ChatSteerplug | SteerplugLLM]) -> dict[str, Callable[[], Awaitable[Any]]]:
    """The routes to a steered model, by argument, field and config."""
    bare, field = kind(**FIELDS), kind(**FIELDS, steering=MIX)
    cached = kind(**FIELDS, steering=MIX, cache=InMemoryCache())
    config: Any = {"configurable": {"steering": MIX}}

    async def at_once(call: Callable[[], Any]) -> None:
        call()

    return {
        "invoke": lambda: at_once(lambda: bare.invoke("Hi", steering=MIX)),
        "invoke, field": lambda: at_once(lambda: field.invoke("Hi")),
        "invoke, cache": lambda: at_once(lambda: cached.invoke("Hi")),
        "stream": lambda: at_once(lambda: list(bare.stream("Hi", steering=MIX))),
        "stream, field": lambda: at_once(lambda: list(field.stream("Hi"))),
        "ainvoke": lambda: bare.ainvoke("Hi", config),
        "ainvoke, field": lambda: field.ainvoke("Hi"),
        "astream": lambda: drained(bare.astream("Hi", config)),
        "astream, field": lambda: drained(field.astream("Hi")),
    }


ROUTES = steered(ChatSteerplug)


@pytest.mark.parametrize("kind", [ChatSteerplug, SteerplugLLM])
@pytest.mark.parametrize("route", ROUTES)
async def test_langchain_reads_a_mix_once(
    kind: type[ChatSteerplug | SteerplugLLM], route: str, counts: Counter[str]
) -> None:
    ask = steered(kind)[route]
    counts.clear()
    await ask()
    assert counts == ONCE


def test_a_session_reads_a_mix_once(counts: Counter[str]) -> None:
    session_for("smollm2", LOADING).chat("Hi", MIX, ChatSteerplug(**FIELDS).settings())
    assert counts == ONCE


def test_the_server_reads_a_mix_once_and_then_knows_it(counts: Counter[str]) -> None:
    (served,) = state(session_for("smollm2", LOADING)).models
    chooser = served.chooser
    counts.clear()
    chooser.choose("smollm2", MIX, None)
    assert counts == ONCE
    chooser.choose("smollm2", MIX, None)
    assert counts == ONCE


def test_the_command_line_reads_a_mix_once(counts: Counter[str]) -> None:
    counts.clear()
    assert main(["run", "Hi", "--steer", MIX, "--max-tokens", "2"]) == 0
    assert counts == ONCE


async def test_an_edited_preset_is_read_anew_by_the_next_call(folder: Path) -> None:
    model = ChatSteerplug(**FIELDS, steering="sad")
    path = folder / "sad.yaml"
    for strength in (1.0, -0.5):
        path.write_text(f"{SAD_PRESET}strength: {{default: {strength}, min: -1.0}}\n")
        os.utime(path, (0, 0))  # neither size nor time need tell
        *_, last = model.stream("Hi")
        for reply in (model.invoke("Hi"), await model.ainvoke("Hi"), last):
            assert reply.response_metadata["steering"]["steering"][0]["strength"] == strength
    path.write_text(SAD_PRESET)
