"""llama.cpp's graph of a decode, taken over before it is computed.

Oracles: llama.cpp's own decode of the same rows, before and after, and tensors that ggml makes.
"""

import gc
import logging
import struct
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

# isort: split
from llama_cpp import llama_cpp as llama

from steerplug.engine import graph as graphs
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.recorder import Recorder
from steerplug.engine.rows import Row
from steerplug.errors import EngineError
from tests.helpers.tiny_models import tiny_model

TOKENS = [30, 31, 32, 33, 34]
ROWS = [Row(token, i, output=True) for i, token in enumerate(TOKENS)]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    model = Model(tiny_model("llama"))
    yield Recorder(model, n_ctx=256, n_batch=64, n_seq=2)
    model.close()


def test_the_graph_is_whole_and_its_inputs_are_filled(recorder: Recorder) -> None:
    nodes = recorder.record(ROWS).nodes
    assert nodes[0].operation == "GET_ROWS"
    assert nodes[-1].name == "result_output"
    assert nodes[-1].shape == (1, 1, len(TOKENS), recorder.model.vocab.n_tokens)
    table, tokens = nodes[0].sources
    assert table is not None
    assert tokens is not None
    assert (table.name, table.is_weight) == ("token_embd.weight", True)
    assert tokens.values is not None
    assert tokens.values.flatten().tolist() == TOKENS
    places = {id(node) for node in nodes}
    known = [s for node in nodes for s in node.sources if s is not None and s.operation != "NONE"]
    assert known
    assert all(id(source) in places for source in known)


def test_nothing_is_computed_and_what_is_held_stays(recorder: Recorder) -> None:
    recorder.decode(ROWS)
    following = [Row(35, 5, output=True)]
    recorder.decode(following)
    wanted = recorder.logits(0)
    recorder.keep(5)
    for _ in range(2):  # the second could be the same graph again
        nodes = recorder.record(following).nodes
        assert recorder.n_held(0) == len(TOKENS)
        cells = next(s for n in nodes for s in n.sources if s and s.name == "cache_k_l0")
        assert cells.values is not None
        held = np.abs(cells.values[0, 0].astype(np.float32)).max(-1) > 0
        assert held[:5].all()
    recorder.decode(following)
    assert np.array_equal(recorder.logits(0), wanted)


def test_views_show_their_roots_by_strides_and_offset(recorder: Recorder) -> None:
    nodes = recorder.record(ROWS).nodes
    views = [node for node in nodes if node.operation in ("VIEW", "PERMUTE", "RESHAPE")]
    assert views
    for view in views:
        assert view.view_of is not None
        assert view.root.view_of is None
        last = sum((n - 1) * step for n, step in zip(view.shape, view.strides, strict=True))
        assert view.offset + last < np.prod(view.root.shape)


def test_nobody_is_told_of_the_broken_decode(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "steerplug.llama"):
        caplog.clear()
        recorder.record(ROWS)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["q8_0", "f32"])
def test_cells_are_numbers_even_where_the_model_is_loaded_to_pack_them(kind: str) -> None:
    model = Model(tiny_model("qwen3_128"), Loading(type_k=kind, type_v=kind))
    recorder = Recorder(model, n_ctx=256, n_batch=64, n_seq=1)
    recorder.decode(ROWS)
    nodes = recorder.record([Row(35, 5, output=True)]).nodes
    cells = next(s for n in nodes for s in n.sources if s and s.name == "cache_k_l0")
    assert cells.values is not None
    assert cells.values.dtype == (np.float32 if kind == "f32" else np.float16)
    model.close()


def test_rows_for_which_there_is_no_room_make_no_graph(recorder: Recorder) -> None:
    for begin in range(0, 256, 64):
        recorder.decode([Row(30, begin + i) for i in range(64)])
    with pytest.raises(EngineError, match="could not decode 1 tokens"):
        recorder.record([Row(30, 256, output=True)])


def test_a_build_whose_tensors_lie_otherwise_is_refused(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs.check_layout.cache_clear()
    monkeypatch.setattr(graphs, "_LAYOUT", struct.Struct(f"=8x{graphs._LAYOUT.format[1:]}"))
    with pytest.raises(EngineError, match=r"lays out tensors otherwise than ggml\.h did; install"):
        recorder.record(ROWS)
    graphs.check_layout.cache_clear()


def test_a_decode_that_is_not_broken_off_is_no_graph(recorder: Recorder) -> None:
    llama.llama_set_abort_callback(recorder.handle, llama.ggml_abort_callback(), None)
    with pytest.raises(EngineError, match="computed what it was to hand over"):
        recorder.record(ROWS)


def test_a_part_of_a_graph_is_none(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = graphs.Graph.add

    def first_half(graph: graphs.Graph, address: int) -> None:
        if len(graph.nodes) < 50:
            add(graph, address)

    monkeypatch.setattr(graphs.Graph, "add", first_half)
    with pytest.raises(EngineError, match="in several parts, and handed over the first"):
        recorder.record(ROWS)


def test_it_is_freed_with_its_last_name() -> None:
    model = Model(tiny_model("llama"))
    recorder = Recorder(model, n_ctx=256, n_batch=64, n_seq=1)
    recorder.record(ROWS)
    gone = weakref.ref(recorder)
    gc.disable()
    try:
        del recorder
        assert gone() is None
    finally:
        gc.enable()
    assert not model._contexts
    model.close()
