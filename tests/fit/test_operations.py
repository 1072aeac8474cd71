"""Every operation of ggml that torch is taught, held against ggml itself, node by node.

The oracle is what llama.cpp computes of the same graph, in float32 and without flash attention,
and with it. The tiny models together meet each operation at least once.
"""

import ctypes
import weakref

import numpy as np
import pytest
import torch

# isort: split
from llama_cpp import llama_cpp as llama

from steerplug.engine.context import Context
from steerplug.engine.graph import Graph, Tensor, _read
from steerplug.engine.hook import Hook
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.fit.distill.computation import Computation
from steerplug.fit.distill.operations import OPERATIONS
from steerplug.fit.distill.weights import Weights
from steerplug.steering.value import Array
from tests.helpers.tiny_models import tiny_model

MODELS = (
    "deepseek4", "gemma3n", "gemma4", "gemma4_256", "gpt_oss", "granitehybrid", "hy_v4", "lfm2",
    "mpt", "qwen35", "qwen4exp", "rwkv6", "rwkv7",
)  # fmt: skip
TYPES = {
    "as it is": Loading(type_k="f32", type_v="f32", flash_attn="off"),
    "flash attention": Loading(type_k="f32", type_v="f32"),
}
FLOAT32 = 0
CLOSE = 0.01
"""ggml looks GELU up by 16 bits, and takes keys and values by 16 for flash attention."""

DEEP = "gemma3n"
"""Whose 22 blocks round too much with flash attention."""


class Computed(Context):
    """A context that keeps what llama.cpp computes, node by node."""

    def __init__(self, model: Model) -> None:
        self.graph = Graph(frozenset(model.header.tensors))
        self.made: dict[Tensor, Array] = {}
        self._kept: set[Tensor] = set()
        self.is_watching = False
        self._watches = llama.ggml_backend_sched_eval_callback(self._watch)
        super().__init__(model, n_ctx=256, n_batch=64, n_threads=1, hooked=False)

    def _open(self, hook: Hook) -> None:
        self._params.cb_eval = self._watches
        super()._open(hook)

    def _watch(self, address: int, is_asked: bool, _: ctypes.c_void_p) -> bool:
        if not self.is_watching:
            return False
        if is_asked:
            self.graph.add(address)
            for source in self.graph.nodes[-1].sources:
                self._keep(source)
            return True
        tensor, read = self.graph.nodes[-1], _read(address)
        if tensor.view_of is None and read.kind == FLOAT32:  # in a place of its own
            raw = (ctypes.c_float * int(np.prod(tensor.shape))).from_address(read.data)
            self.made[tensor] = np.array(raw, np.float32).reshape(tensor.shape)
        return True

    def _keep(self, source: Tensor | None) -> None:
        """Copy the numbers of an input or of cells: their places are written over."""
        if source is not None and source.root.values is not None and source.root not in self._kept:
            self._kept.add(source.root)
            object.__setattr__(source.root, "values", source.root.values.copy())


@pytest.fixture(scope="module")
def met() -> set[str]:
    """The operations that some model has met."""
    return set()


@pytest.mark.parametrize("how", TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_each_node_is_what_ggml_makes_of_it(name: str, how: str, met: set[str]) -> None:
    if name == DEEP and how == "flash attention":
        return
    model = Model(tiny_model(name), TYPES[how])
    tokens = np.random.default_rng(0).integers(20, model.vocab.n_tokens, 24).tolist()
    context = Computed(model)
    context.is_watching = True
    context.decode([Row(token, i, output=True) for i, token in enumerate(tokens)])
    context.is_watching = False
    computation = Computation(Weights(model, torch.device("cpu")))
    with torch.no_grad():
        computation.run(context.graph.nodes)
    for node, theirs in context.made.items():
        ours, finite = computation.value(node).numpy(), np.isfinite(theirs)
        apart = np.linalg.norm(ours[finite] - theirs[finite])
        assert apart <= CLOSE * np.linalg.norm(theirs[finite]), f"{node.operation} {node.name}"
    met |= {node.operation for node in context.graph.nodes}
    assert len(context.made) > 10 * model.n_layer
    model.close()


@pytest.mark.parametrize("name", ["llama", "falcon_h1", "deepseek2"])
def test_what_no_node_reads_any_more_is_dropped_and_the_end_is_the_same(name: str) -> None:
    model = Model(tiny_model(name))
    context = Computed(model)
    context.is_watching = True
    context.decode([Row(token, i, output=True) for i, token in enumerate(range(20, 44))])
    nodes = context.graph.nodes
    seen: list[weakref.ref[torch.Tensor]] = []
    changes = {f"l_out-{il}": lambda values: seen.append(weakref.ref(values)) for il in (0, 1)}

    def ended(kept: list[Tensor] | None) -> tuple[torch.Tensor, list[bool]]:
        computation = Computation(Weights(model, torch.device("cpu")), changes)
        seen.clear()
        with torch.no_grad():
            computation.run(nodes, kept)
        return computation.value(nodes[-1]), [value() is None for value in seen]

    (dropped, gone), (whole, there) = ended([nodes[-1]]), ended(None)
    assert torch.equal(dropped, whole)
    assert (gone, there) == ([True, True], [False, False])
    model.close()


def test_no_operation_is_left_that_no_model_meets(met: set[str]) -> None:
    assert OPERATIONS.keys() - met == set()
