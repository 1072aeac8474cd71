"""A session's model is loaded as its caller says, whichever way; a LoRA is a part of what it is."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from steerplug import Session, Steering
from steerplug.engine.loading import SETTINGS, Loading
from steerplug.engine.sampling import Sampling
from steerplug.errors import ModelError
from steerplug.session import Settings
from steerplug.session.loading_fields import LoadingFields
from steerplug.session.shared import forget_sessions, session_for
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta
from tests.helpers.loras import write_lora

CHAT = [{"role": "user", "content": "Name a colour."}]
GREEDY = Settings(Sampling(temperature=0), max_tokens=12)
SMALL: dict[str, Any] = {"n_ctx": 256, "n_threads": 1}
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"


@pytest.fixture(autouse=True)
def no_sessions() -> Iterator[None]:
    forget_sessions()
    yield
    forget_sessions()


def steering(n_embd: int, n_layer: int) -> Steering:
    import numpy as np

    z = np.random.default_rng(3).normal(0, 1.0, n_embd).astype(np.float32)
    return Steering("push", n_embd, n_layer, {n_layer // 2: Delta.constant(z)})


def test_a_template_of_ones_own_is_what_the_model_reads(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(TEMPLATE)
    with closing(Session("smollm2", **SMALL, chat_template=path)) as session:
        assert session.template.render([{"role": "user", "content": "Hi"}]) == (
            "[user] Hi\n[assistant]"
        )
        assert session.chat("Hi", settings=GREEDY).text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"chat_template": "{% for m in messages %}"}, r"chat_template does not parse .*, line 1"),
        ({"chat_template": "{{ a b }}"}, "chat_template does not parse .* correct it, or leave it"),
        ({"n_ctxt": 9}, "there is no setting `n_ctxt`; did you mean `n_ctx`?"),
        ({"n_ubatch": 9}, "`n_ubatch` is no setting here"),
        ({"draft_model": "a.gguf"}, "`draft_model` is no setting here: speculation"),
    ],
)
def test_nonsense_is_refused_before_the_weights_are_read(
    words: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerplug.engine.model.Model.__init__", lambda *_: pytest.fail("read"))
    with pytest.raises(ModelError, match=sentence.replace("?", r"\?")):
        Session("smollm2", **words)


def write_for(path: Path, session: Session) -> Path:
    model = session.model
    identity = Identity(
        preset="push", preset_version="1.0.0", preset_digest="0", model=model.fingerprint,
        architecture=model.architecture, chat_template="", method="const", seed=0,
        steerplug_version="0",
    )  # fmt: skip
    write_steering(path, steering(model.n_embd, model.n_layer), identity)
    return path


def test_steering_of_the_base_is_used_with_a_lora_and_a_warning_and_the_other_way_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lora = tmp_path / "lora.gguf"
    write_lora(lora, n_embd=576, tensors=("blk.3.attn_q.weight",), alpha=20.0)
    with closing(Session("smollm2", **SMALL)) as base:
        plain = write_for(tmp_path / "plain.gguf", base)
        bare = base.chat(CHAT, settings=GREEDY).text
    with closing(Session("smollm2", **SMALL, lora=lora)) as tuned:
        own = write_for(tmp_path / "own.gguf", tuned)
        assert tuned.chat(CHAT, settings=GREEDY).text != bare
        tuned.steering(f'"{own}"')
        assert not caplog.records
        tuned.steering(f'"{plain}"')
        assert "was built for another quantisation, version or LoRA of the model" in caplog.text
        caplog.clear()
    with closing(Session("smollm2", **SMALL)) as base:
        base.steering(f'"{own}"')
    assert "was built for another quantisation, version or LoRA of the model" in caplog.text


def test_sessions_are_shared_by_all_that_is_said_of_loading_and_only_by_it(
    tiny_llama: Callable[..., Path], tmp_path: Path
) -> None:
    path, lora = str(tiny_llama(n_head=2)), tmp_path / "lora.gguf"
    write_lora(lora)
    every: list[dict[str, Any]] = [
        {}, {"type_k": "q8_0"}, {"flash_attn": "off"}, {"n_batch": 64}, {"lora": str(lora)},
        {"lora": {str(lora): 0.5}}, {"rope_freq_base": 5.0},
    ]  # fmt: skip
    found = [session_for(path, Loading(**{**SMALL, **words})) for words in every]
    assert len(set(map(id, found))) == len(every)
    again = session_for(path, Loading(n_ctx=256, n_threads=1, type_k="Q8_0"))
    assert again is found[1]
    tuned = Loading(n_ctx=256, n_threads=1, lora=((str(lora), 1.0),))
    assert session_for(path, tuned) is found[4]
    os.utime(lora, ns=(1, 1))
    assert session_for(path, tuned) is not found[4]


def test_a_template_does_not_make_a_reader_of_a_model_without_tokeniser(
    tiny_llama: Callable[..., Path],
) -> None:
    with pytest.raises(ModelError, match="this model has no tokeniser"):
        Session(tiny_llama(), **SMALL, chat_template=TEMPLATE).chat("Hi", settings=GREEDY)


def test_fields_are_the_table() -> None:
    assert list(LoadingFields.model_fields) == list(SETTINGS)
    for name, entry in LoadingFields.model_fields.items():
        known = SETTINGS[name]
        assert (entry.default, entry.description) == (known.default, known.meaning)
        assert entry.annotation == get_type_hints(Loading)[name]
    assert LoadingFields(n_ctx="512", type_k=8).loading() == Loading(n_ctx=512, type_k="q8_0")
