"""The quick copy of a model: it says what the model says, leaves nothing behind, and may fail."""

import contextlib
import logging
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steerplug.engine import requantised
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Request
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.requantised import quick
from steerplug.engine.request import tokens_of
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import EngineError
from steerplug.fit.measure import reply_log_probs
from steerplug.steering.value import NOTHING
from tests.helpers.tiny_models import tiny_model

# isort: split
from llama_cpp import llama_cpp as llama

N_CTX = 256
TEXT = "The rain had fallen all night, and in the morning the river stood at the door of the mill."


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    engine = Engine(model, n_ctx=N_CTX, n_seq=2, n_threads=1)
    yield engine
    engine.close()


@pytest.fixture
def reader(shared_context: Context) -> Reader:
    shared_context.clear()
    return Reader(shared_context)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("processor", "file_type"), [
    (b"CPU : AVX2 = 1 | AVX512 = 1 | AVX512_BF16 = 1 | ", "32"),  # BF16
    (b"CPU : AVX2 = 1 | AVX512 = 1 | ", "7"),  # Q8_0; the model is Q4_1, 3
])  # fmt: skip
def test_the_copy_says_what_the_model_says(
    engine: Engine, reader: Reader, processor: bytes, file_type: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(llama, "llama_print_system_info", lambda: processor)
    tokens = tuple(engine.model.vocab.tokenize(TEXT))
    prompt, reply = Prompt(tokens[:3]), tokens[3:]
    (wanted,) = reply_log_probs(reader, prompt, reply, [NOTHING])
    with quick(engine, reader) as (quick_engine, quick_reader):
        assert quick_engine.model.metadata("general.file_type") == file_type
        assert quick_reader.context.model is quick_engine.model is not engine.model
        assert quick_engine.n_ctx == quick_reader.context.n_ctx == N_CTX
        assert quick_engine.context.n_threads == quick_reader.context.n_threads == 1
        (found,) = reply_log_probs(quick_reader, prompt, reply, [NOTHING])
        greedy = Request(prompt, sampling=Sampling(temperature=0), max_tokens=4)
        assert len(list(quick_engine.generate(greedy))) == 4
    divergence = (np.exp(wanted) * (wanted - found)).sum(axis=-1)
    assert 0 < divergence.mean() < 0.02  # nats; 4 bits lose about 0.1 of what 16 say


def test_nothing_of_the_copy_is_left(engine: Engine, reader: Reader, folder: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), quick(engine, reader) as (quick_engine, _):
        copy = quick_engine.model
        assert list(folder.iterdir())
        raise KeyboardInterrupt
    assert not list(folder.iterdir())
    with pytest.raises(Exception, match="closed"):
        _ = copy.handle
    assert engine.model.handle  # the model itself stays open


def test_a_model_that_is_quick_itself_is_not_copied(
    engine: Engine, reader: Reader, folder: Path
) -> None:
    with quick(engine, reader) as once, quick(*once) as twice:
        assert twice == once
        assert len(list(folder.iterdir())) == 1


def test_of_a_model_that_is_quick_the_cells_alone_are_others(
    reader: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requantised, "is_slow", lambda _model: False)
    model = reader.context.model
    prompt = Prompt(tuple(model.vocab.tokenize(TEXT)))
    greedy = Request(prompt, sampling=Sampling(temperature=0), max_tokens=4)
    engine = Engine(model, n_ctx=N_CTX, n_threads=1)
    with quick(engine, reader) as (quick_engine, quick_reader):
        assert quick_engine.model is model
        assert quick_reader is reader
        assert quick_engine.context.kv_bytes == engine.context.kv_bytes
        assert (quick_engine.context.type_v, engine.context.type_v) == ("bf16", "f16")
        assert tokens_of(quick_engine.generate(greedy)) == tokens_of(engine.generate(greedy))
        assert not list(folder.iterdir())
    with pytest.raises(EngineError, match="closed"):
        list(quick_engine.generate(greedy))
    assert list(engine.generate(greedy))
    engine.close()


@pytest.mark.parametrize("loading", [Loading(flash_attn="off"), Loading(type_v="q8_0")])
def test_cells_stay_as_they_were_asked_for(
    reader: Reader, loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requantised, "is_slow", lambda _model: False)
    model = Model(reader.context.model.path, loading)
    engine = Engine(model, n_ctx=N_CTX, n_threads=1)
    with quick(engine, reader) as given:
        assert given == (engine, reader)
    engine.close()


def test_where_keys_and_values_are_one_cells_stay_as_they_are(reader: Reader) -> None:
    engine = Engine(Model(tiny_model("deepseek2")), n_ctx=N_CTX, n_threads=1)
    with quick(engine, reader) as given:
        assert given == (engine, reader)
    engine.close()


def test_a_large_model_is_not_copied(
    engine: Engine, reader: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.model, "n_weights", int(5e9))
    with quick(engine, reader) as (quick_engine, quick_reader):
        assert quick_engine is engine
        assert quick_reader is reader
        assert not list(folder.iterdir())


@pytest.mark.parametrize("trouble", ["full", "gone"])
def test_where_there_is_no_room_the_model_itself_is_used(
    engine: Engine,
    reader: Reader,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    if trouble == "gone":
        folder.rmdir()
        folder.write_text("in the way of a folder")
    caplog.set_level(logging.WARNING, "steerplug")
    with _at_most(1_000_000), quick(engine, reader) as (quick_engine, quick_reader):
        assert quick_engine.model is engine.model
        assert quick_reader is reader
    (said,) = [record.getMessage() for record in caplog.records if "requantised" in record.name]
    assert "cannot be copied to a temporary folder (" in said
    assert said.endswith("set TMPDIR to a folder with space.")
    assert "\n" not in said
    assert trouble == "gone" or not list(folder.iterdir())


@contextlib.contextmanager
def _at_most(n_bytes: int) -> Iterator[None]:
    """Let no file grow larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
