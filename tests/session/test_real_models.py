"""Shipped presets on models that nobody compiled them for: they work at the first word."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerplug.engine.model import Model
from steerplug.engine.proofs import Proofs
from steerplug.engine.sampling import Sampling
from steerplug.errors import RequestError
from steerplug.langchain import ChatSteerplug
from steerplug.library.presets import load_preset
from steerplug.session import Session, Settings
from steerplug.session.shared import forget_sessions
from steerplug.store.store import Store
from tests.helpers.real_models import GEMMA_270M, MODELS, QWEN_0_5B, RealModel, path_of

QUESTION = [{"role": "user", "content": "How do I learn to swim?"}]
GREEDY = Settings(Sampling(temperature=0), max_tokens=60)
TAUGHT = ("bullet-points", "json-output", "pirate")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    store = Store(tmp_path_factory.mktemp("store"))
    session = Session(path_of(QWEN_0_5B), n_ctx=1024, store=store)
    yield session
    session.close()


@pytest.mark.parametrize("name", TAUGHT)
def test_a_shipped_preset_keeps_its_checks_at_the_first_word(qwen: Session, name: str) -> None:
    reply = qwen.chat(QUESTION, name, GREEDY)
    assert reply.receipt.carrier == "prompt"
    assert all(check.passes(reply.text) for check in load_preset(name).checks), reply.text
    again = qwen.chat([{"role": "user", "content": "What is rain?"}], name, GREEDY)
    assert again.usage.cached_tokens >= reply.receipt.prompt_tokens


def test_langchain_chooses_a_preset_by_config_at_the_first_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path))
    model = ChatSteerplug(
        model=str(path_of(QWEN_0_5B)), n_ctx=1024, temperature=0, max_tokens=40
    )
    config: Any = {"configurable": {"steering": "pirate"}}
    bare, pirate = model.invoke("What is rain?"), model.invoke("What is rain?", config)
    assert bare.response_metadata["steering"]["carrier"] == ""
    receipt = pirate.response_metadata["steering"]
    assert (receipt["carrier"], receipt["tokens_steered"]) == ("prompt", 0)
    assert pirate.text != bare.text
    forget_sessions()


@pytest.mark.parametrize("real", MODELS, ids=[model.file for model in MODELS])
def test_steering_is_exact_on_real_models(real: RealModel) -> None:
    model = Model(path_of(real))
    proofs = Proofs(model)
    for proof in proofs.all().values():
        proof()
    proofs.close()
    model.close()


def test_a_base_model_has_no_place_for_a_prompt_and_says_so(tmp_path: Path) -> None:
    session = Session(path_of(GEMMA_270M), n_ctx=512, store=Store(tmp_path))
    carrying = session.carrying(load_preset("pirate"))
    assert carrying.carrier is None
    assert "has no chat template" in carrying.reason
    with pytest.raises(RequestError, match="plain text that is continued has no place for one"):
        session.complete("Once", "pirate", GREEDY)
    session.close()
