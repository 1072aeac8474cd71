"""Loading models: damaged files end in one sentence, the fingerprint tells models apart."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llama_cpp import llama_cpp as llama

from steerplug.engine.block_output import BlockOutput
from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.errors import ModelError
from tests.helpers.tiny_models import make, tiny_model
from tests.helpers.tiny_specs import SPECS, Spec


def refusal(path: Path) -> str:
    """Load a bad file; return the sentence it is refused with."""
    with pytest.raises(ModelError) as caught:
        Model(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert ";" in sentence, "it names the cure"
    assert len(sentence) < 300
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


@pytest.mark.parametrize("content", [b"", b"GG", b"GGU", b"not a model at all", b"\0" * 4096])
def test_a_file_that_is_no_gguf_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.gguf"
    path.write_bytes(content)
    assert refusal(path) == "notes.gguf is not a GGUF file; choose a model in GGUF format."


@pytest.mark.parametrize("size", [4, 8, 24, 40, 300, 1000, 100_000, 1_000_000])
def test_a_gguf_cut_off_in_its_header_is_damaged(
    tmp_path: Path, model_path: Path, size: int
) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(model_path.read_bytes()[:size])
    sentence = refusal(path)
    assert sentence.startswith("half.gguf is a damaged GGUF (")
    assert "no reason given" not in sentence


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999999])
def test_a_gguf_cut_off_in_its_weights_is_corrupted_or_incomplete(
    tmp_path: Path, model_path: Path, share: float
) -> None:
    data = model_path.read_bytes()
    path = tmp_path / "half.gguf"
    path.write_bytes(data[: int(share * len(data))])
    assert "model is corrupted or incomplete" in refusal(path)


def test_a_control_vector_is_not_taken_for_a_model(tmp_path: Path) -> None:
    path = tmp_path / "vector.gguf"
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor("direction.1", np.ones(576, np.float32))
    write(writer)
    assert "unknown model architecture: 'controlvector'" in refusal(path)


def test_a_model_without_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hollow.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    write(writer)
    assert refusal(path).startswith("hollow.gguf cannot be loaded as a model (")


def test_a_folder_and_a_missing_file_are_refused_by_path(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        assert refusal(path).startswith(f"{path} cannot be read (")


def test_the_reason_given_is_that_of_this_failure_not_of_an_earlier_one(
    tmp_path: Path, model_path: Path
) -> None:
    test_a_control_vector_is_not_taken_for_a_model(tmp_path)
    path = tmp_path / "short.gguf"
    path.write_bytes(model_path.read_bytes()[:8])
    assert refusal(path) == (
        "short.gguf is a damaged GGUF (failed to read header); download it again."
    )


def test_a_refused_file_leaves_nothing_on_the_terminal(tmp_path: Path, model_path: Path) -> None:
    """In a process of its own: pytest's log handlers would hide what a user sees."""
    data = model_path.read_bytes()
    for size in (100, 1_000_000, len(data) // 2):
        (tmp_path / f"{size}.gguf").write_bytes(data[:size])
    program = (
        "import sys, pathlib\n"
        "from steerplug.engine.model import Model\n"
        "from steerplug.errors import ModelError\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try: Model(path)\n"
        "    except ModelError: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("refused\n" * 3, "")


def test_the_fingerprint_is_stable_and_names_architecture_width_and_depth(
    model: Model, model_path: Path
) -> None:
    again = Model(model_path)
    assert again.fingerprint == model.fingerprint
    family, digest = model.fingerprint.rsplit("-", 1)
    assert family == "llama-576x30"
    assert len(digest) == 64


def test_the_fingerprint_changes_with_metadata_and_tensors_but_not_with_the_file_s_name(
    tmp_path: Path, tiny_llama: Callable[..., Path]
) -> None:
    first = tiny_llama()
    moved = tmp_path / "another name.gguf"
    moved.write_bytes(first.read_bytes())
    fingerprint = Model(first).fingerprint
    assert Model(moved).fingerprint == fingerprint
    assert Model(tiny_llama(name="renamed")).fingerprint != fingerprint
    deeper = Model(tiny_llama(n_layer=4)).fingerprint
    assert deeper.startswith("llama-64x4-")
    assert deeper.rsplit("-")[-1] != fingerprint.rsplit("-")[-1]


def test_the_norms_outside_the_blocks_are_those_of_the_file_and_of_every_quantisation(
    model: Model, model_path: Path, tiny: Model
) -> None:
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(model_path).tensors}
    gains = tensors["output_norm.weight"].tobytes()
    assert model.outer_norms == hashlib.sha256(b"output_norm.weight" + gains).hexdigest()
    whole = Model(tiny_model("llama"))
    assert whole.fingerprint != tiny.fingerprint
    assert whole.outer_norms == tiny.outer_norms


def test_norms_outside_the_blocks_differ_from_model_to_model_and_may_be_missing(
    tmp_path: Path
) -> None:
    without = make(Spec("olmo", {"attention.layer_norm_epsilon": 1e-5}), tmp_path)
    norms = [Model(tiny_model(name, seed)).outer_norms
             for name, seed in (("llama", 0), ("llama", 1), ("lfm2", 0))]  # fmt: skip
    assert len(set(norms)) == 3
    assert Model(without).outer_norms == ""


def test_a_model_knows_its_geometry_template_and_metadata(model: Model) -> None:
    assert (model.n_embd, model.n_layer, model.architecture) == (576, 30, "llama")
    assert model.n_ctx_train == 8192
    assert not model.is_recurrent
    template = model.chat_template
    assert template is not None
    assert "<|im_start|>" in template
    assert model.metadata("general.architecture") == "llama"
    assert model.metadata("no.such.key") is None


def test_a_model_is_called_what_its_file_is(tiny_llama: Callable[..., Path]) -> None:
    path = tiny_llama(name="Checkpoint 8k Mix1 Ep2")
    assert Model(path).name == path.stem


def test_a_long_metadata_value_is_returned_whole(tiny_llama: Callable[..., Path]) -> None:
    name = "long " * 400
    assert Model(tiny_llama(name=name)).metadata("general.name") == name


def test_a_model_without_a_bos_or_a_chat_template_has_none(
    tiny_llama: Callable[..., Path],
) -> None:
    model = Model(tiny_llama())
    assert model.vocab.bos == -1
    assert model.chat_template is None
    context = Context(model, n_ctx=256, n_batch=32, n_threads=1)
    assert context.hook.seen.tolist() == [1] * 5
    context.close()


def test_text_survives_tokens_and_back(model: Model) -> None:
    vocab = model.vocab
    for text in ("Hello, world!", " two  spaces\n\ttab", "🎉 naïve €", ""):
        assert vocab.text(vocab.tokenize(text)) == text
    assert vocab.tokenize("<|im_end|>", special=True) == [vocab.eos]
    assert len(vocab.tokenize("<|im_end|>")) > 1
    assert vocab.text([vocab.eos]) == ""
    assert vocab.text([vocab.eos], special=True) == "<|im_end|>"
    assert vocab.ends_generation(vocab.eos)
    assert vocab.text([vocab.space]) == " "


def test_a_closed_model_says_so_instead_of_touching_freed_memory(
    tiny_llama: Callable[..., Path],
) -> None:
    model = Model(tiny_llama())
    model.close()
    model.close()
    uses: list[Callable[[], object]] = [
        lambda: model.handle, lambda: model.metadata("general.name"), lambda: model.is_recurrent,
        lambda: model.vocab.tokenize("text"), lambda: model.vocab.text([1]),
        lambda: model.vocab.ends_generation(1), lambda: Context(model, n_ctx=256),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(ModelError, match="is closed; load the model again"):
            use()


def test_a_context_that_llama_cpp_cannot_make_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it answers when memory runs out; really running out takes half a minute and all of it.
    monkeypatch.setattr(llama, "llama_init_from_model", lambda *_: None)
    with pytest.raises(ModelError, match=r"no context of 4096 tokens .*; choose a smaller n_ctx"):
        Context(model, n_threads=1)


@pytest.mark.parametrize("name", ["n_ctx", "n_batch", "n_seq"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_context_of_nothing_is_refused(model: Model, name: str, value: int) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ModelError, match=f"^{name} is {value}; give at least 1"):
        Context(model, **settings)


@pytest.mark.parametrize(("pooling", "name"), [(1, "mean"), (3, "last"), (4, "rank")])
def test_a_model_for_embeddings_is_refused(tmp_path: Path, pooling: int, name: str) -> None:
    path = make(replace(SPECS["qwen3"], later={"pooling_type": pooling}), tmp_path)
    with pytest.raises(ModelError) as caught:
        Model(path)
    assert str(caught.value) == (
        f"made.gguf (qwen3) is a model for embeddings (its pooling_type is {name}), which writes "
        "no text that could be steered; take a chat model here, and `llama-server --embeddings` "
        "for it."
    )


def test_a_model_that_says_it_pools_nothing_is_a_chat_model(tmp_path: Path) -> None:
    model = Model(make(replace(SPECS["qwen3"], later={"pooling_type": 0}), tmp_path))
    assert model.architecture == "qwen3"
    model.close()


@pytest.fixture
def stream_model() -> Iterator[Model]:
    """A model whose blocks hand out four streams per row."""
    model = Model(tiny_model("gemma3n"))
    yield model
    model.close()


def test_an_architecture_that_does_not_name_its_blocks_is_refused(
    stream_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "block_output", BlockOutput("no_such_name"))
    with pytest.raises(ModelError) as caught:
        Context(stream_model, n_ctx=256, n_batch=32, n_threads=1)
    assert str(caught.value) == (
        "the architecture `gemma3n` does not expose the output of 22 of 22 blocks (first: 0) as "
        "no_such_name-N, so llama.cpp cannot steer it; use another model."
    )


def test_an_architecture_with_more_rows_than_are_known_is_refused_by_its_name(
    stream_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "block_output", BlockOutput())
    with pytest.raises(ModelError) as caught:
        Context(stream_model, n_ctx=256, n_batch=32, n_threads=1)
    assert str(caught.value) == (
        "the architecture `gemma3n` cannot be steered here: block 0 hands out 4 rows for a batch "
        "of 1, so steerplug cannot steer this model on this device; use another model."
    )


def test_a_block_that_is_met_twice_is_refused_as_well(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerplug.engine.hook import Hook

    counts = np.ones(model.n_layer, np.int32)
    counts[7] = 2
    monkeypatch.setattr(Hook, "seen", counts)
    with pytest.raises(ModelError, match=r"1 of 30 blocks \(first: 7\)"):
        Context(model, n_ctx=256, n_batch=32, n_threads=1)


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_nobody_closed_is_left_in_peace_when_python_ends(
    tiny_llama: Callable[..., Path],
) -> None:
    model = Model(tiny_llama())
    context = Context(model, n_ctx=64, n_threads=1)
    context.__del__(lambda: True)  # while Python ends, llama.cpp's log may lead nowhere
    model.__del__(lambda: True)
    assert context.handle
    assert model.handle
    model.close()
