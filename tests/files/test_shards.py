"""A model in several files: any of them names it, and all are loaded and part of its identity."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.requantised import quick
from steerplug.errors import ModelNotFound
from steerplug.files.shards import shard_names, shards
from steerplug.langchain.fingerprint import fingerprint_model
from steerplug.model_file import find_model
from steerplug.session import Session
from tests.helpers.tiny_models import tiny_model

torch = pytest.importorskip("torch", reason="the extra `fit` is not installed")


from steerplug.fit.distill.weights import Weights  # noqa: E402  imports torch

NAME = "model-00001-of-00003.gguf"


def write_split(source: Path, path: Path, most: int, *, widened: bool = False) -> list[Path]:
    """Write a GGUF again in files of at most so many tensors, as the gguf package splits it.

    If `widened`, the last matrix has another type.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(None, "llama", split_max_tensors=most)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    last = next(tensor.name for tensor in reversed(reader.tensors) if len(tensor.shape) > 1)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if widened and tensor.name == last:
            values, kind = gguf.dequantize(data, kind), gguf.GGMLQuantizationType.Q8_0
            data = gguf.quantize(values, kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob("*-of-*.gguf"))


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model(tiny_model("llama"))
    yield model
    model.close()


@pytest.fixture(scope="module")
def split(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same model in three files."""
    return write_split(model.path, tmp_path_factory.mktemp("split") / "model.gguf", 15)


def test_any_of_its_files_names_the_model_and_llama_cpp_reads_all_of_them(
    split: list[Path], model: Model
) -> None:
    assert [path.name for path in split] == shard_names(NAME)
    assert {find_model(str(path)) for path in split} == {split[0]}
    session = Session(split[1], n_ctx=256, n_threads=1)
    assert session.model.n_weights == model.n_weights
    assert session.complete("The sea", settings=None).text
    session.close()


def test_the_split_model_finds_texts_as_likely_as_the_whole_one_does(
    split: list[Path], model: Model
) -> None:
    told = []
    for path in (split[0], model.path):
        session = Session(path, n_ctx=256, n_threads=1)
        scored = session.score("The sea is deep and the sky is blue")
        told.append([one.logprob for one in scored.logprobs if one is not None])
        session.close()
    parts, whole = told
    np.testing.assert_allclose(parts, whole, atol=0.05)


def test_a_model_is_known_by_the_tables_of_all_its_files(
    split: list[Path], model: Model, tmp_path: Path
) -> None:
    other = write_split(model.path, tmp_path / "model.gguf", 15, widened=True)
    assert [path.read_bytes() == same.read_bytes() for path, same in zip(other, split, strict=True)
            ] == [True, True, False]  # fmt: skip
    assert Model(other[0]).fingerprint != Model(split[0]).fingerprint
    again = shutil.copytree(split[0].parent, tmp_path / "again")
    assert Model(again / NAME).fingerprint == Model(split[0]).fingerprint


def test_a_quick_copy_of_a_split_model_is_one_file(
    split: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerplug.engine.requantised.is_slow", lambda _model: True)
    engine = Engine(Model(split[0]), n_ctx=256, n_threads=1)
    with quick(engine, Reader(Context(engine.model, n_ctx=256))) as (copy, _):
        assert copy is not engine
        assert copy.model.n_weights == engine.model.n_weights
    engine.close()


def test_a_fit_reads_the_weights_of_all_files(split: list[Path], model: Model) -> None:
    parts = Model(split[0])
    read, whole = (Weights(one, torch.device("cpu")) for one in (parts, model))
    parts.close()
    assert model.header.tensors
    for name in model.header.tensors:
        assert read.values(name).equal(whole.values(name))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_file_is_named(missing: int, tmp_path: Path) -> None:
    files = shards(tmp_path / NAME)
    for path in files:
        path.write_bytes(b"GGUF")
    files[missing].unlink()
    for path in files:
        with pytest.raises(ModelNotFound) as refusal:
            find_model(str(path))
        assert str(refusal.value) == (
            f"{files[missing]} is not there, one of the 3 files of this model; put them all into "
            "one folder."
        )


def test_links_keep_the_names_by_which_llama_cpp_finds_the_others(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for i, path in enumerate(shards(tmp_path / NAME)):
        (tmp_path / "blobs" / f"{i}").write_bytes(b"GGUF")
        path.symlink_to(tmp_path / "blobs" / f"{i}")
    assert find_model(str(tmp_path / NAME)) == tmp_path / NAME


@pytest.mark.parametrize(
    "name",
    ["model.gguf", "model-00004-of-00003.gguf", "model-00000-of-00003.gguf", "m-1-of-2.gguf",
     "model-00001-of-00003.bin", "model-00001-of-00001.gguf"],
)  # fmt: skip
def test_other_names_are_of_one_file(name: str, tmp_path: Path) -> None:
    assert shard_names(name) == [name]
    (tmp_path / name).write_bytes(b"GGUF")
    assert find_model(str(tmp_path / name)) == tmp_path / name


def test_a_chat_model_s_cache_knows_every_file(tmp_path: Path) -> None:
    for path in shards(tmp_path / NAME):
        path.write_bytes(b"GGUF")
    known = fingerprint_model(str(tmp_path / NAME))
    assert fingerprint_model(str(tmp_path / NAME)) == known
    shards(tmp_path / NAME)[2].write_bytes(b"GGUF, another")
    assert fingerprint_model(str(tmp_path / NAME)) != known


# The hub


Asked = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """Answer for a hub that lacks some files; the list fills with what was asked for."""

    def answer(*lacking: str) -> list[tuple[str, str]]:
        asked: list[tuple[str, str]] = []

        def download(repo: str, name: str) -> str:
            asked.append((repo, name))
            if name in lacking:
                raise EntryNotFoundError("404")
            return str(tmp_path / name)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        return asked

    return answer


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("folder", ["", "Q4_K_M/"])
def test_the_hub_is_asked_for_all_files_and_the_first_is_the_model(
    hub: Asked, tmp_path: Path, number: int, folder: str
) -> None:
    asked = hub()
    name = f"{folder}model-{number:05}-of-00003.gguf"
    assert find_model(f"hf:org/repo/{name}") == tmp_path / folder / NAME
    assert asked == [
        ("org/repo", f"{folder}model-{i:05}-of-00003.gguf") for i in (1, 2, 3)
    ]


def test_a_file_that_the_hub_lacks_is_named(hub: Asked) -> None:
    hub("model-00003-of-00003.gguf")
    with pytest.raises(ModelNotFound) as refusal:
        find_model(f"hf:org/repo/{NAME}")
    assert str(refusal.value) == (
        "org/repo on the hub has no file model-00003-of-00003.gguf, one of the 3 of this model; "
        "check the name on its page."
    )
