"""A server offers every preset: by steering where it is compiled, by its prompt where it is not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import httpx
import openai
import pytest

from steerplug.server.catalog import Catalog
from steerplug.server.errors import Refused
from steerplug.session import Session
from steerplug.store.store import Store
from tests.helpers.presets import SAD_PRESET
from tests.helpers.serving import NAME, QUESTION, Client, served, session, state

KNIGHT = """\
schema: steerplug/preset-v1
name: knight
description: Says Ni.
teacher: {system: You are a knight who says Ni to everyone.}
fit: {method: chain}
"""


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a teacher and a contrast, neither of which is compiled."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    (tmp_path / "knight.yaml").write_text(KNIGHT)
    (tmp_path / "sad.yaml").write_text(SAD_PRESET)
    return tmp_path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A model whose store is empty when a test begins."""
    own = Session(
        NAME, n_ctx=512, n_cells=2048, n_threads=1, store=Store(tmp_path_factory.mktemp("store"))
    )
    yield own
    own.close()


@pytest.fixture
def client(own: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("tests.helpers.serving.session", lambda: own)
    with served() as client:
        yield client
    for path in own.store.folder.rglob("*.gguf"):
        path.unlink()


def described(client: Client) -> dict[str, Any]:
    return {one["name"]: one for one in client.get("/steering/presets").json()["data"]}


def test_every_preset_is_listed_with_what_carries_it(client: Client) -> None:
    listed = described(client)
    assert listed["pirate"]["carrier"] == "steering"
    assert listed["pirate"]["prompt_tokens"] > 200
    knight, sad = listed["knight"], listed["sad"]
    assert (knight["carrier"], knight["reason"]) == ("prompt", "not compiled for this model")
    assert knight["tokens_saved"] is None
    assert (sad["carrier"], sad["prompt_tokens"]) == (None, None)
    assert "no prompt can carry a contrast" in sad["reason"]
    ids = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert f"{NAME}@knight" in ids
    assert f"{NAME}@sad" not in ids


def test_the_openai_client_gets_a_preset_that_was_never_compiled_at_once(client: Client) -> None:
    asked = openai.OpenAI(base_url=f"{client.root}/v1", api_key="none")
    answer = asked.chat.completions.with_raw_response.create(
        model=f"{NAME}@knight", messages=QUESTION, max_tokens=12, temperature=0,  # type: ignore[arg-type]
    )  # fmt: skip
    assert answer.headers["x-steering-carrier"] == "prompt"
    assert answer.headers["x-steering-digest"] == "none"
    content: Any = answer.parse()
    system = {"role": "system", "content": "You are a knight who says Ni to everyone."}
    prompted = client.chat(messages=[system, *QUESTION]).json()
    assert content.choices[0].message.content == prompted["choices"][0]["message"]["content"]
    assert content.usage.prompt_tokens == prompted["usage"]["prompt_tokens"]
    receipt = content.model_extra["steering"]
    assert (receipt["carrier"], receipt["mix"]) == ("prompt", "knight")
    assert receipt["presets"][0]["reason"] == "not compiled for this model"


@pytest.mark.parametrize(
    ("said", "headers", "carrier"),
    [
        ({}, {}, "steering"),
        ({"carrier": "auto"}, {}, "steering"),
        ({"carrier": "prompt"}, {}, "prompt"),
        ({"carrier": "both"}, {}, "both"),
        ({"model": f"{NAME}@pirate:prompt"}, {}, "prompt"),
        ({}, {"x-steering-carrier": "both"}, "both"),
        ({"model": f"{NAME}@pirate:prompt"}, {"x-steering-carrier": "both"}, "prompt"),
        ({"model": f"{NAME}@pirate:prompt", "carrier": "steering"}, {}, "steering"),
        ({"model": NAME}, {}, "none"),
    ],
)
def test_the_carrier_is_said_in_body_model_or_header(
    client: Client, said: dict[str, Any], headers: dict[str, str], carrier: str
) -> None:
    body = {"model": f"{NAME}@pirate", "messages": QUESTION, "max_tokens": 2, "temperature": 0}
    answer = client.post("/v1/chat/completions", json={**body, **said}, headers=headers)
    assert answer.headers["x-steering-carrier"] == carrier, answer.text
    assert answer.json()["steering"]["carrier"] == ("" if carrier == "none" else carrier)


def test_what_carried_replies_is_counted(client: Client) -> None:
    for carrier in ("prompt", "prompt", "steering"):
        client.chat(steering="pirate", carrier=carrier)
    client.chat()
    counts = client.get("/metrics").text
    assert 'steerplug_replies_total{carrier="prompt"} 2.0' in counts
    assert 'steerplug_replies_total{carrier="steering"} 1.0' in counts
    assert 'steerplug_replies_total{carrier="none"} 1.0' in counts
    cost = described(client)["pirate"]["prompt_tokens"]
    assert f"steerplug_carrier_tokens_total {2.0 * cost}" in counts


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        ({"carrier": "promt"}, 400, "did you mean `prompt`"),
        ({"steering": "0.5*knight"}, 400, "has no strength 0.5"),
        ({"steering": "knight", "carrier": "steering"}, 400, "run `steerplug build knight"),
        ({"steering": "sad"}, 404, "no prompt can carry a contrast"),
    ],
)
def test_what_cannot_carry_is_one_sentence(
    client: Client, said: dict[str, Any], status: int, told: str
) -> None:
    answer = client.chat(**said)
    assert answer.status_code == status
    assert told in answer.json()["error"]["message"]


def test_streams_go_on_while_a_preset_is_swapped_over(client: Client, own: Session) -> None:
    """A reply that began with the prompt ends with it; each later one has what was compiled."""
    streams, n_clients = list[list[str]](), 4
    begun, swapped = Barrier(n_clients + 1, timeout=120), Event()

    def talk() -> None:
        with httpx.Client(base_url=client.root, timeout=None) as asked:
            carriers = [_streamed(asked, begun.wait)]
            swapped.wait(120)
            carriers.append(_streamed(asked, lambda: None))
            streams.append(carriers)

    talkers = [Thread(target=talk) for _ in range(n_clients)]
    for talker in talkers:
        talker.start()
    begun.wait()  # all are being answered
    _publish(own, "knight")
    next(iter(client.serving.models)).catalog.refresh()
    swapped.set()
    for talker in talkers:
        talker.join(300)
    assert streams == [["prompt", "steering"]] * n_clients


def _streamed(asked: httpx.Client, begin: Callable[[], object]) -> str:
    """Stream a reply to its end; return what carried it, by its header and by its receipt."""
    body = {"model": f"{NAME}@knight", "messages": QUESTION, "max_tokens": 24, "stream": True}
    with asked.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        first = next(line for line in lines if "content" in line)
        begin()
        *events, done = [first, *(line for line in lines if line.startswith("data:"))]
        assert done == "data: [DONE]"
        end = json.loads(events[-1].removeprefix("data:"))
        assert end["choices"][0]["finish_reason"] in ("stop", "length")
        assert end["steering"]["carrier"] == answer.headers["x-steering-carrier"]
        return str(answer.headers["x-steering-carrier"])


def _publish(of: Session, name: str) -> None:
    import numpy as np

    from steerplug.build import store_key
    from steerplug.library.presets import load_preset
    from steerplug.steering.identity import Identity
    from steerplug.steering.value import Delta, Steering

    preset, model = load_preset(name), of.model
    key = store_key(preset, of.engine)
    z = np.ones(model.n_embd, np.float32)
    steering = Steering(name, model.n_embd, model.n_layer, {14: Delta.constant(z)})
    identity = Identity(
        name, preset.version, preset.digest, model.fingerprint, model.architecture,
        key.chat_template, preset.fit.method, 0, "0.1.0", 1.0, 0.0, 2.0,
        fidelity={"gap_closed": 0.9},
    )  # fmt: skip
    of.store.publish(key, steering, identity)


def test_an_unknown_name_to_compile_is_refused_before_anyone_connects() -> None:
    with pytest.raises(Refused, match="there is no preset `priate`; did you mean `pirate`"):
        state(session(), compile=("knight,priate",))


def test_all_are_compiled_one_after_another(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (library / "knight.yaml").unlink()
    own = Session(NAME, n_ctx=256, n_threads=1, store=Store(tmp_path / "other"))
    asked = list[str]()
    monkeypatch.setattr(own.compiler, "ask", asked.append)
    state(own, compile=("all",))
    assert asked == ["sad"]  # the shipped ones came compiled
    own.close()


def test_a_catalog_says_why_a_preset_waits() -> None:
    with pytest.raises(Refused, match="`sad` cannot be used, not compiled for this model, and no"):
        Catalog(session()).check("sad")
