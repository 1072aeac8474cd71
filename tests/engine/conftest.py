"""What tests of the engine share: a tiny model, the rows that are decoded, and a brake."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.scheduler import Scheduler
from tests.helpers.asking import Rows
from tests.helpers.tiny_models import tiny_model

# isort: split
from llama_cpp import llama_cpp as llama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model of random weights that decodes in no time, where only the way of a reply matters.

    In Q4_1, as SmolLM2 is: llama.cpp then computes a row with the same bits in any batch.
    """
    path = tmp_path_factory.mktemp("tiny") / "tiny-q4_1.gguf"
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.pure = llama.LLAMA_FTYPE_MOSTLY_Q4_1, True
    paths = os.fsencode(tiny_model("llama")), os.fsencode(path)
    assert llama.llama_model_quantize(*paths, ctypes.byref(params)) == 0
    model = Model(path)
    yield model
    model.close()


@pytest.fixture
def tiny_context(tiny: Model) -> Iterator[Context]:
    """An empty context of it, as `context` is of the real model."""
    context = Context(tiny, n_ctx=512, n_batch=128, n_seq=2, n_threads=1)
    yield context
    context.close()


@contextmanager
def _engines(model: Model) -> Iterator[Callable[..., Engine]]:
    """Give what makes engines on a model; all are closed in the end."""
    with ExitStack() as made:

        def make(n_ctx: int = 512, **settings: Any) -> Engine:
            return made.enter_context(
                closing(Engine(model, n_ctx=n_ctx, n_threads=1, **settings))
            )

        yield make


@pytest.fixture
def new_engine(model: Model) -> Iterator[Callable[..., Engine]]:
    with _engines(model) as make:
        yield make


@pytest.fixture
def new_tiny(tiny: Model) -> Iterator[Callable[..., Engine]]:
    with _engines(tiny) as make:
        yield make


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The rows of every decode."""
    rows: Rows = []
    decode = Context.decode

    def watched(self: Context, batch: list[Row], *args: object, **kwargs: object) -> object:
        rows.append(list(batch))
        return decode(self, batch, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "decode", watched)
    return rows


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Steps wait for this event, so that requests can gather."""
    go, step = threading.Event(), Scheduler.step

    def waiting(self: Scheduler) -> None:
        go.wait(120)
        step(self)

    monkeypatch.setattr(Scheduler, "step", waiting)
    yield go
    go.set()
