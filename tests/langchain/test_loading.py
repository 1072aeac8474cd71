"""A chat model's and a completion model's fields say how their weights are loaded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steerplug.engine.loading import SETTINGS, Loading
from steerplug.errors import ModelError
from steerplug.langchain import ChatSteerplug
from steerplug.langchain.llm import SteerplugLLM
from steerplug.session.shared import forget_sessions, session_for
from tests.helpers.loras import write_lora

FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "n_ctx": 256, "n_threads": 1}
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
KINDS = [ChatSteerplug, SteerplugLLM]


@pytest.fixture(autouse=True)
def no_sessions() -> Iterator[None]:
    forget_sessions()
    yield
    forget_sessions()


@pytest.mark.parametrize("kind", KINDS)
def test_fields_reach_the_weights_and_copies_keep_them(kind: Any) -> None:
    model = kind(**FIELDS, type_k=8, type_v="Q8_0", flash_attn=True, swa_full=True)
    assert set(SETTINGS) <= set(kind.model_fields)
    assert model.loading() == Loading(
        n_ctx=256, n_threads=1, type_k="q8_0", type_v="q8_0", flash_attn="on", swa_full=True
    )
    assert model.invoke("Hi")
    session = session_for("smollm2", model.loading())
    assert session.engine.context.n_ctx == 256
    assert session.model.loading == model.loading()
    assert model.with_steering("none").loading() == model.loading()


def key(model: ChatSteerplug | SteerplugLLM) -> str:
    """What LangChain's cache knows a model by."""
    if isinstance(model, ChatSteerplug):
        return model._get_llm_string()
    return str(sorted(model._identifying_params.items()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_replies_is_in_the_key_of_langchains_cache(kind: Any, tmp_path: Path) -> None:
    lora = tmp_path / "lora.gguf"
    write_lora(lora)
    changes: list[dict[str, Any]] = [
        {}, {"type_k": "q8_0"}, {"type_v": "q4_0"}, {"rope_freq_scale": 0.5}, {"lora": lora},
        {"lora": {lora: 0.5}}, {"chat_template": TEMPLATE}, {"override_kv": {"a": 1}},
        {"rope_scaling_type": "yarn"}, {"yarn_orig_ctx": 64},
    ]  # fmt: skip
    keys = [key(kind(**FIELDS, **change)) for change in changes]
    assert len(set(keys)) == len(keys)
    write_lora(lora, seed=6)
    assert key(kind(**FIELDS, lora=lora)) not in keys
    same: list[dict[str, Any]] = [
        {"use_mmap": False}, {"n_gpu_layers": 0}, {"check_tensors": True}, {"type_k": "F16"},
        {"n_threads_batch": 1}, {"numa": None},
    ]  # fmt: skip
    assert {key(kind(**FIELDS, **change)) for change in same} == {keys[0]}


def test_how_much_a_model_reads_is_known_where_it_was_said() -> None:
    said, trained = (ChatSteerplug(n_ctx=n_ctx).profile or {} for n_ctx in (512, 0))
    assert said["max_input_tokens"] == 512
    assert "max_input_tokens" not in trained


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"n_ctx": -1}, "n_ctx is -1; choose 0 to"),
    ({"n_ctx": "many"}, "n_ctx is 'many'; give a whole number"),
    ({"type_v": "q8_0", "flash_attn": False}, "a quantised cache of values needs flash attention"),
    ({"chat_template": "chatml"}, "which is neither a text in Jinja nor a file"),
    ({"n_ubatch": 64}, "`n_ubatch` is no setting here: one decode is one batch"),
    ({"draft_model": "x"}, "`draft_model` is no setting here: speculation"),
    ({"clip_model_path": "x"}, "`clip_model_path` is no setting here: images"),
    ({"kv_overrides": {}}, "`kv_overrides` is no setting here: write override_kv."),
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_what_makes_no_sense_is_refused_when_the_model_is_made(
    kind: Any, words: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError) as refusal:
        kind(**words)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_the_machine_lacks_is_refused_at_the_first_reply(
    tiny_llama: Callable[..., Path],
) -> None:
    with pytest.raises(ModelError, match="devices names CUDA9"):
        SteerplugLLM(**FIELDS, model=str(tiny_llama()), devices="CUDA9").invoke("Hi")
    with pytest.raises(ModelError, match=r"the LoRA .* cannot be read"):
        SteerplugLLM(**FIELDS, model=str(tiny_llama()), lora="/nowhere.gguf").invoke("Hi")
