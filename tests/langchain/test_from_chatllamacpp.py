"""Who comes from ChatLlamaCpp: its arguments, and the page for them."""

import re
from pathlib import Path
from typing import Any

import pytest

import steerplug.langchain
from steerplug.errors import RequestError
from steerplug.langchain import ChatSteerplug
from steerplug.langchain.aliases import ALIASES, WITHOUT_EFFECT

PAGE = Path(steerplug.langchain.__file__).with_name("FROM_CHATLLAMACPP.md").read_text("utf-8")
DEFAULTS: dict[str, Any] = {
    "client": None, "lora_base": None, "lora_path": None, "n_ctx": 512, "n_parts": -1, "seed": -1,
    "f16_kv": True, "logits_all": False, "vocab_only": False, "use_mlock": False,
    "n_threads": None, "n_batch": 8, "n_gpu_layers": None, "suffix": None, "max_tokens": 256,
    "temperature": 0.8, "top_p": 0.95, "logprobs": None, "echo": False, "stop": None,
    "repeat_penalty": 1.1, "top_k": 40, "last_n_tokens_size": 64, "use_mmap": True,
    "rope_freq_scale": 1.0, "rope_freq_base": 10000.0, "model_kwargs": {}, "streaming": True,
    "grammar_path": None, "grammar": None, "verbose": True,
}  # fmt: skip
"""All arguments of ChatLlamaCpp but the path, with their defaults (langchain-community 0.4.2)."""


def test_all_defaults_of_chatllamacpp_are_understood() -> None:
    model = ChatSteerplug(**{**DEFAULTS, "model_path": "smollm2"})
    assert (model.model, model.repeat_last_n, model.repeat_penalty) == ("smollm2", 64, 1.1)
    assert (model.n_ctx, model.n_batch, model.seed) == (512, 8, None)


def test_the_table_has_every_argument_and_says_what_holds() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, flags=re.MULTILINE))
    assert rows.keys() == {"model_path", *DEFAULTS}
    for name, here in rows.items():
        is_field = name in ChatSteerplug.model_fields or name in ALIASES or name == "model_kwargs"
        assert here.startswith("same") == (is_field and name != "logprobs"), name
        assert is_field or name in WITHOUT_EFFECT
        for other in re.findall(r"`(\w+)[=`]", here):
            assert other in {*ChatSteerplug.model_fields, *ALIASES} or hasattr(ChatSteerplug, other)


@pytest.mark.parametrize(
    "source", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL), ids=["three", "metadata"]
)
def test_the_python_of_the_page_runs(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(source, "FROM_CHATLLAMACPP.md", "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out.strip().split("\n")
    assert len(printed) >= 2


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"f16_kv": False}, "f16_kv is False, which is not served: write type_k and type_v"),
        ({"grammar": "root ::= x"}, "GBNF is not read; give a schema"),
        ({"lora_path": "x.gguf"}, "lora_path is 'x.gguf', which is not served: write lora."),
        ({"model": "a", "model_path": "b"}, "`model` is given twice, under two names"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "`max_tokens` is given twice"),
        ({"n_ctx": 1, "model_kwargs": {"n_ctx": 2}}, "`n_ctx` is given twice"),
        ({"model_kwargs": {"warmth": 1}}, "there is no argument `warmth`"),
        ({"model_kwargs": [1]}, r"model_kwargs is \[1\]; give a dict"),
        ({"max_completion_tokens": 0}, "max_tokens is 0; give at least 1"),
    ],
)
def test_what_cannot_be_obeyed_is_one_sentence(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        ChatSteerplug(**said)


def test_a_call_may_use_the_same_names() -> None:
    said: dict[str, Any] = {"model_path": "smollm2", "max_completion_tokens": 40}
    model = ChatSteerplug(n_ctx=512, temperature=0, **said)
    reply = model.invoke("What is rain?", max_completion_tokens=5)
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == 5
    bound = model.bind(max_completion_tokens=6).invoke("What is rain?")
    assert bound.response_metadata["timings"]["predicted_n"] == 6


def test_timings_are_told_in_one_and_at_the_end_of_a_stream() -> None:
    model = ChatSteerplug(model="smollm2", n_ctx=512, temperature=0, max_tokens=5)
    whole = model.invoke("What is rain?")
    parts = list(model.stream("What is rain?"))
    for message in (whole, sum(parts[1:], parts[0])):
        timings, usage = message.response_metadata["timings"], message.usage_metadata
        assert usage is not None
        assert timings["predicted_n"] == 5
        assert timings["cache_n"] + timings["prompt_n"] == usage["input_tokens"]
        assert timings["prompt_ms"] > 0
        assert timings["predicted_per_second"] > 0
