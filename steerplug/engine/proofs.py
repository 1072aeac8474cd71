"""Proofs that steering works on a loaded model: each one runs it, and compares with an oracle.

A text is decoded plainly and again with one block steered, so that the activation that enters the
steering is known from the first run, and what must come out is known from the NumPy twin.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from steerplug.engine import routes
from steerplug.engine.capture import Capture
from steerplug.engine.context import Context
from steerplug.engine.devices import tensors_on_host
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.engine.reference import steer_row
from steerplug.engine.row_order import ONE_AT_A_TIME
from steerplug.engine.rows import Row
from steerplug.engine.sizes import CHECKPOINT_BYTES, FEWEST_CHECKPOINTS, N_SEQ_OF_STATES
from steerplug.errors import EngineError, ModelError
from steerplug.steering.value import Array, Delta, Mix, Steering, Term

_MB = 1e6
TEXT = "The quick brown fox jumps over"
KINDS = ("constant", "gated", "affine")
_ROWS = 2  # one that is steered, and one that is not
TOLERANCE = 1e-3
"""Greatest |native - twin| / |change of h|; sums in another order give about 1e-6."""


_ROUTES: dict[routes.Route, dict[str, Any]] = {
    "node": {"on_host": True, "on_device": False},
    "device": {"on_device": True},
    "callback": {"on_host": False, "on_device": False},
}
"""How to ask for a route; a context that cannot have it takes another."""
_IN_WORDS = {
    "node": "a node in host memory", "device": "operations of the device",
    "callback": "the callback",
}  # fmt: skip


class Proofs:
    """Runs of one model, and what they prove.

    Args:
        model: the loaded model.
        route: by which route it is steered; default: the one that all contexts take here.

    Raises:
        ModelError: llama.cpp does not show every block of this model.
    """

    def __init__(self, model: Model, route: routes.Route | None = None) -> None:
        n_batch = min(max(model.loading.n_batch, _ROWS), 64)
        settings = _ROUTES[route] if route else {}
        self.context = Context(model, n_ctx=256, n_batch=n_batch, **settings)
        self._model = model
        last = model.n_layer - 1
        self._blocks = sorted({0, last // 3, last // 2, max(last - 1, 0), last})

    def all(self) -> dict[str, Callable[[], str]]:
        """Return each proof by name: a function that returns a sentence, or raises EngineError."""
        of_states = {"sequences": self.sequences} if self._model.has_states else {}
        return {
            "tensors": self.tensors,
            "hook": self.hook,
            "kernel": self.kernel,
            "other routes": self.other_routes,
            "untouched rows": self.untouched_rows,
            "strength 0": self.strength_0,
            "logits": self.logits,
            **of_states,
        }

    def close(self) -> None:
        """Free the context."""
        self.context.close()

    @cached_property
    def tokens(self) -> list[int]:
        """The tokens of a text; any will do where the model has no tokeniser."""
        try:
            tokens = self._model.vocab.tokenize(TEXT)
        except ModelError:
            tokens = list(range(1, 9))
        return tokens[: self.context.n_batch]

    def tensors(self) -> str:
        """Say where activations lie, and by which route they are steered."""
        context = self.context
        if context.route == "node":
            return "activations lie in host memory and are steered as a part of llama.cpp's graph"
        if context.route == "device":
            lie = ", ".join(f"{n} on {name}" for name, n in routes.names(self._model).items())
            return (
                f"of {self._model.n_layer} blocks lie {lie}; each device steers its own as a part "
                "of llama.cpp's graph"
            )
        where = "in host memory" if tensors_on_host() else "on a device"
        because = f", because {context.why}" if context.why else ""
        return f"activations lie {where} and are steered between pieces of the graph{because}"

    def hook(self) -> str:
        """Prove that the hook meets every block once per decode."""
        self._decode(None, watch_all=True)
        seen = self.context.hook.seen
        if (seen != 1).any():
            il = int(np.flatnonzero(seen != 1)[0])
            raise EngineError(
                f"the hook fired {seen[il]} times at block {il} instead of once; "
                "steering cannot be trusted with this model, use another one."
            )
        return f"fired once on each of {len(seen)} blocks"

    def kernel(self) -> str:
        """Prove that the native code does to real activations what its NumPy twin does."""
        worst = self._worst(self._blocks)
        return (
            f"{', '.join(KINDS)} agree with the NumPy twin at blocks "
            f"{', '.join(map(str, self._blocks))}; greatest relative error {worst:.1e}"
        )

    def _worst(self, blocks: Sequence[int]) -> float:
        """Return the greatest error of all kinds at some blocks, or refuse it."""
        worst = float(np.max([self._error(kind, il) for kind in KINDS for il in blocks]))
        if not worst <= TOLERANCE:  # NaN is refused as well
            raise EngineError(
                f"steering by {_IN_WORDS[self.context.route]} differs from the NumPy twin by "
                f"{worst:.1e} of the change; reinstall steerplug, and report this with the model's "
                "name and your device."
            )
        return worst

    def other_routes(self) -> str:
        """Prove the routes that are not taken here, as far as they could be, at one block."""
        said = []
        for route in _ROUTES:
            if route == self.context.route or (route == "node" and not tensors_on_host()):
                continue
            other = Proofs(self._model, route)
            try:
                if other.context.route == route:
                    worst = other._worst(self._blocks[len(self._blocks) // 2 :][:1])
                    said.append(f"{_IN_WORDS[route]} with a relative error of {worst:.1e}")
                else:
                    said.append(f"not {_IN_WORDS[route]}: {other.context.why}")
            finally:
                other.close()
        return f"could be steered by {'; '.join(said)}"

    def untouched_rows(self) -> str:
        """Prove that rows without steering keep every bit beside rows with it."""
        for il in self._blocks:
            plain, mixed = self._plain[il], self._steered("gated", il)
            if not np.array_equal(plain[::2], mixed[::2]):
                raise EngineError(
                    f"rows that nobody steers change at block {il} when their neighbours are "
                    "steered; report this with the model's name."
                )
            if np.array_equal(plain[1::2], mixed[1::2]):
                raise EngineError(f"steering changes nothing at block {il}; use another model.")
        return "bit-identical beside steered ones"

    def strength_0(self) -> str:
        """Prove that strength 0 gives the logits of a model that is not watched at all."""
        steering = self._steering("affine", self._blocks[-1])
        plain, zero = self._logits(None), self._logits(0.0 * steering, watch_all=True)
        if not np.array_equal(plain, zero):
            raise EngineError(
                "strength 0 changes the logits; report this with the model's name and your device."
            )
        return "gives the very logits of the unsteered model"

    def logits(self) -> str:
        """Prove that steering reaches the logits."""
        steering = self._steering("constant", self._blocks[len(self._blocks) // 2])
        moved = float(np.abs(self._logits(1.0 * steering) - self._logits(None)).max())
        if not moved > 0:
            raise EngineError("steering leaves the logits as they are; use another model.")
        return f"move by up to {moved:.2f} when block {next(iter(steering.layers))} is steered"

    def sequences(self) -> str:
        """Prove that batches of several sequences keep their order; say what memory each takes."""
        n, each = N_SEQ_OF_STATES, self.context.checkpoint_bytes / _MB
        most = max(CHECKPOINT_BYTES / _MB, FEWEST_CHECKPOINTS * each)
        copies = f"copies of them, to go on from, take up to {most:.0f} MB"
        if not self._model.is_recurrent:
            return (
                f"sliding windows of {self._model.n_swa} tokens take {each:.1f} MB in each of {n} "
                f"sequences; where a context is longer than all of them, {copies}"
            )
        if self._model.architecture in ONE_AT_A_TIME:
            return f"replies are made one by one; a state has {each:.1f} MB, and {copies}"
        Context(self._model, n_ctx=256, n_seq=n).close()  # which proves it
        return f"rows of {n} keep their order; each has a state of {each:.1f} MB, and {copies}"

    def _decode(
        self, mix: Mix | None, capture: Capture | None = None, *, watch_all: bool = False
    ) -> Array | None:
        """Decode the tokens afresh, every other row steered by `mix`."""
        steering: RowSteering | None = lay_out(mix) if mix else None
        rows = [
            Row(token, i, output=True, steering=steering if i % 2 else None)
            for i, token in enumerate(self.tokens)
        ]
        self.context.clear()
        return self.context.decode(rows, capture, watch_all=watch_all)

    @cached_property
    def _plain(self) -> dict[int, Array]:
        """The unsteered activations that leave each examined block, (n_rows, n_embd)."""
        captured = self._decode(None, Capture(self._blocks, range(len(self.tokens))))
        assert captured is not None
        return dict(zip(self._blocks, captured, strict=True))

    def _steered(self, kind: str, il: int) -> Array:
        """Return the activations that leave block il when it is steered, (n_rows, n_embd)."""
        mix = 1.0 * self._steering(kind, il)
        captured = self._decode(mix, Capture([il], range(len(self.tokens))))
        assert captured is not None
        return np.asarray(captured[0])

    def _logits(self, mix: Mix | None, *, watch_all: bool = False) -> Array:
        self._decode(mix, watch_all=watch_all)
        return np.stack([self.context.logits(i) for i in range(len(self.tokens))])

    def _error(self, kind: str, il: int) -> float:
        """Return the greatest |native - twin| / |change| over the steered rows of one block."""
        steering = self._steering(kind, il)
        before, native = self._plain[il][1::2], self._steered(kind, il)[1::2]
        twin = np.stack([steer_row(h, [Term(1.0, steering)], il) for h in before])
        errors = np.linalg.norm(native - twin, axis=1) / np.linalg.norm(twin - before, axis=1)
        return float(errors.max())

    def _steering(self, kind: str, il: int) -> Steering:
        """Return a random steering of block il that moves every h by about its own length."""
        rng, n_embd, k = np.random.default_rng(il), self._model.n_embd, 8
        size = float(np.abs(self._plain[il]).mean())
        z = rng.normal(0, size, n_embd).astype(np.float32)
        W, Z = (rng.normal(0, s, (k, n_embd)).astype(np.float32) for s in (n_embd**-0.5, size))
        delta = {
            "constant": Delta.constant(z),
            "gated": Delta.gated(W, np.ones(k, np.float32), Z),
            "affine": Delta.affine(z, W / np.float32(size), np.ones(k, np.float32), Z),
        }[kind]
        return Steering(kind, n_embd, self._model.n_layer, {il: delta})
