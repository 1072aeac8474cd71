"""Steered logits against an independent framework on the same weights, and against stock llama.cpp.

The oracle is transformers on the same GGUF, dequantised to float32, with the same intervention made
by forward hooks. Two models are used:

* a random float32 llama of 5 blocks, where nothing is quantised but the float16 KV cache, so the
  two frameworks agree to 1e-3 and a wrong row, block, sign or norm cannot hide;
* SmolLM2 (Q4_1), where llama.cpp also quantises activations to 8 bits before each matrix product.
  What that costs is measured on the unsteered model first; steering must not add to it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerplug.engine.context import Context
from steerplug.engine.hook import lay_out
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.scope import Plan, Prompt, plan
from steerplug.steering.value import Array, Delta, Mix, Steering, Term
from tests.helpers.oracle import Oracle, relative


class Pair:
    """The same weights in llama.cpp, steered by steerplug, and in the oracle."""

    def __init__(
        self, model: Model, context: Context, oracle: Oracle, tokens: list[int]
    ) -> None:
        self.model, self.context, self.oracle = model, context, oracle
        self.tokens = tokens
        self.n_embd, self.n_layer = model.n_embd, model.n_layer
        self.bare_ours = self.ours(Plan((None,) * len(tokens), None))
        self.bare_theirs = self.oracle.logits(tokens, [[]] * len(tokens))
        self.noise = relative(self.bare_ours, self.bare_theirs)
        self.size = self._sizes()

    def _sizes(self) -> list[float]:
        """Mean |h| of each block's output, so that strengths are comparable."""
        lengths: list[float] = []
        with contextlib.ExitStack() as stack, torch.no_grad():
            for block in self.oracle.model.model.layers:

                def note(_m: Any, _i: Any, output: Any) -> None:
                    h = output[0] if isinstance(output, tuple) else output
                    lengths.append(float(h.reshape(-1, h.shape[-1])[1:].norm(dim=-1).mean()))

                stack.callback(block.register_forward_hook(note).remove)
            self.oracle.model(torch.tensor([self.tokens]))
        return lengths

    def ours(self, laid: Plan) -> Array:
        self.context.clear()
        self.context.decode(
            [Row(token, i, True, laid.prompt[i]) for i, token in enumerate(self.tokens)]
        )
        return np.stack([self.context.logits(i) for i in range(len(self.tokens))])

    def compare(self, mix: Mix, prompt: Prompt) -> tuple[float, float, float]:
        """Relative error of the steered logits; cosine and ratio of the change steering made."""
        ours = self.ours(plan(mix, prompt))
        theirs = self.oracle.logits(self.tokens, who_steers(mix, prompt))
        a, b = (ours - self.bare_ours).ravel(), (theirs - self.bare_theirs).ravel()
        cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        size = float(np.linalg.norm(a) / np.linalg.norm(b))
        return relative(ours, theirs), cosine, size


def who_steers(mix: Mix, prompt: Prompt) -> list[list[tuple[Term, int]]]:
    """The scope rules once more, said naively: the terms of each row and its front position."""
    rows: list[list[tuple[Term, int]]] = []
    for i in range(len(prompt.tokens)):
        reply = i == len(prompt.tokens) - 1 or any(a <= i < b for a, b in prompt.responses)
        row = []
        for term in mix.terms:
            scope, n = term.steering.scope, term.steering.n_positions
            is_bos = i == 0 and prompt.has_bos
            if (scope == "response" and reply) or (scope == "all" and not is_bos):
                row.append((term, 0))
            elif scope == "front" and i < n:
                row.append((term, i))
        rows.append(row)
    return rows


TEXT = (
    "The weather in the mountains changed quickly that afternoon, and so they decided to stay in "
    "the hut until the storm had passed. Nobody had expected snow in"
)


@pytest.fixture(scope="module")
def smollm2(model: Model, shared_context: Context, smollm2_oracle: Oracle) -> Pair:
    tokens = [model.vocab.bos, *model.vocab.tokenize(TEXT)]
    return Pair(model, shared_context, smollm2_oracle, tokens)


@pytest.fixture(scope="module")
def tiny(tiny_llama: Callable[..., Path]) -> Iterator[Pair]:
    path = tiny_llama()
    model = Model(path)
    context = Context(model, n_ctx=256, n_batch=64, n_threads=1)
    tokens = np.random.default_rng(1).integers(0, 96, 32).tolist()
    yield Pair(model, context, Oracle(path), tokens)
    context.close()


# What is intervened, as functions of the model's geometry; sizes are shares of |h|.


def unit(rng: np.random.Generator, *shape: int) -> Array:
    values = rng.standard_normal(shape)
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)


def constant(pair: Pair, layers: Sequence[int], scope: str = "all", share: float = 0.5) -> Steering:
    rng = np.random.default_rng(21)
    deltas = {il: Delta.constant(share * pair.size[il] * unit(rng, pair.n_embd)) for il in layers}
    return Steering("constant", pair.n_embd, pair.n_layer, deltas, scope)  # type: ignore[arg-type]


def gated(pair: Pair, layers: Sequence[int], k: int = 1, share: float = 0.1) -> Steering:
    rng, n = np.random.default_rng(22), pair.n_embd
    deltas = {
        il: Delta.gated(
            unit(rng, k, n), np.full(k, 0.3, np.float32), share * pair.size[il] * unit(rng, k, n)
        )
        for il in layers
    }
    return Steering("gated", n, pair.n_layer, deltas, "all")


def affine(pair: Pair, layers: Sequence[int]) -> Steering:
    rng, n = np.random.default_rng(23), pair.n_embd
    deltas = {
        il: Delta.affine(
            0.2 * pair.size[il] * unit(rng, n),
            unit(rng, 4, n),
            (0.1 * pair.size[il] * rng.standard_normal(4)).astype(np.float32),
            unit(rng, 4, n),
        )
        for il in layers
    }
    return Steering("affine", n, pair.n_layer, deltas, "all")


def front(pair: Pair, il: int, n_positions: int = 3) -> Steering:
    rng = np.random.default_rng(24)
    z = 1.5 * pair.size[il] * unit(rng, n_positions, pair.n_embd)
    return Steering("front", pair.n_embd, pair.n_layer, {il: Delta.constant(z)}, "front")


def interventions(pair: Pair) -> dict[str, Mix]:
    n, middle = pair.n_layer, pair.n_layer // 2
    return {
        "constant at one block": 1.0 * constant(pair, [middle]),
        "constant at the last block": 1.0 * constant(pair, [n - 1]),
        "constant at several blocks": -1.0 * constant(pair, range(1, n, 2), share=3.0 / n),
        "gated at all blocks": 1.0 * gated(pair, range(n), share=2.5 / n),
        "gated, three units": -1.0 * gated(pair, [middle], k=3, share=0.5),
        "affine": 0.7 * affine(pair, [1, middle]),
        "response only": 1.0 * constant(pair, [middle], "response", share=1.0),
        "front": 1.0 * front(pair, 1),
        "a mix": 0.5 * constant(pair, [middle]) + -0.5 * gated(pair, [middle, n - 1], share=0.5)
        + 1.0 * front(pair, 1),
    }  # fmt: skip


KINDS = (
    "constant at one block", "constant at the last block", "constant at several blocks",
    "gated at all blocks", "gated, three units", "affine", "response only", "front", "a mix",
)  # fmt: skip


def prompt_of(pair: Pair) -> Prompt:
    return Prompt(tuple(pair.tokens), responses=((6, 11), (17, 23)), has_bos=True)


def test_both_frameworks_agree_on_the_unsteered_models(tiny: Pair, smollm2: Pair) -> None:
    assert tiny.noise < 2e-3
    assert smollm2.noise < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_float32_model_equals_transformers_with_the_same_intervention(
    tiny: Pair, kind: str
) -> None:
    error, cosine, size = tiny.compare(interventions(tiny)[kind], prompt_of(tiny))
    assert error < 2 * tiny.noise
    assert cosine > 0.99999
    assert abs(size - 1) < 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_model_equals_transformers_within_what_quantising_explains(
    smollm2: Pair, kind: str
) -> None:
    error, cosine, size = smollm2.compare(interventions(smollm2)[kind], prompt_of(smollm2))
    assert error < 2 * smollm2.noise
    assert cosine > 0.99
    assert abs(size - 1) < 0.05


def test_a_constant_for_every_token_equals_stock_llama_cpp_s_control_vector(
    smollm2: Pair, plain_logits: Callable[..., Array]
) -> None:
    # Stock steers every token, BOS too, at any block but the first; so do these rows.
    steering = constant(smollm2, [1, 14, 15, 29], share=0.5)
    vector = np.zeros((smollm2.n_layer, smollm2.n_embd), np.float32)
    for il, delta in steering.layers.items():
        vector[il] = 0.8 * delta.z[0]
    everywhere = lay_out(0.8 * steering)
    ours = smollm2.ours(Plan((everywhere,) * len(smollm2.tokens), everywhere))
    stock = plain_logits(smollm2.tokens, vector)
    assert relative(stock, smollm2.bare_ours) > 0.1
    assert relative(ours, stock) < 1e-3
