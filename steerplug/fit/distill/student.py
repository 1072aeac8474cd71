"""A model in torch, with gradients: llama.cpp's own graph of it, computed on the GGUF's weights.

Nothing here knows an architecture. llama.cpp lays out a batch and hands over its graph, with masks,
positions and cells (`engine.recorder`); torch computes it (`computation`).

Rows are what is compared: the boundary token and the reply. Tokens before the first steered one
never change, so llama.cpp reads them once, and the state that it has then, cells or running states,
is put back before each batch.

Shapes: hidden (n_rows, n_embd), what the output matrix reads, for the rows of a whole batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from steerplug.engine.devices import tensors_on_host
from steerplug.engine.graph import Tensor
from steerplug.engine.model import Model
from steerplug.engine.recorder import Recorder
from steerplug.engine.rows import Row
from steerplug.engine.sequences import State
from steerplug.errors import SteerplugError, TorchCopyError
from steerplug.fit.distill.computation import Change, Computation, check_operations
from steerplug.fit.distill.readable import CURE
from steerplug.fit.distill.weights import Weights, fastest_type, free_bytes
from steerplug.fit.teacher import n_common

MOST_TOGETHER = 8
"""Passages of a batch; a longer one is read in parts."""

_N_BATCH = 1024

_ROOM = 0.25
"""The share of free memory that dequantised weights may take."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """Tokens that are never steered, as what follows goes on from them.

    Args:
        n_tokens: how many.
        state: what llama.cpp remembers of them.
    """

    n_tokens: int = 0
    state: State | None = None


@dataclass(frozen=True)
class Passage:
    """Tokens after a prefix; those from `first` on are rows."""

    prefix: Prefix
    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Changes:
    """What is computed otherwise than llama.cpp would.

    Args:
        values: of tensors of its graph, by name.
        beside: by the name of a matrix, what its products get besides, given their rows.
    """

    values: Mapping[str, Change] = field(default_factory=dict)
    beside: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)


Batch = Sequence[Passage]
ChangesOf = Callable[[Batch], Changes]
"""Given the passages that are read together, whose tokens are one after the other."""
Addition = Callable[[int, torch.Tensor], torch.Tensor | None]
"""(block, its output h, (n_rows, n_embd)) -> what is added to it, or None"""


def unchanged(_: Batch) -> Changes:
    """Return what is changed where nothing is."""
    return Changes()


class Student:
    """A frozen model whose blocks can be watched and steered.

    Args:
        model: the model, loaded in llama.cpp.
        n_ctx: the context in which llama.cpp reads it, on which rotations may depend.
        device: where torch computes.

    Raises:
        TorchCopyError: llama.cpp's graph of it has an operation that torch is not taught, or its
            tensors cannot be read.
    """

    def __init__(self, model: Model, n_ctx: int, device: torch.device) -> None:
        self.model, self.device = model, device
        try:
            self._recorder = Recorder(
                _on_host(model), n_ctx=n_ctx, n_batch=_N_BATCH,
                n_seq=1 if model.is_recurrent else MOST_TOGETHER,
            )  # fmt: skip
            nodes = self._recorder.record([Row(max(model.vocab.bos, 0), 0, output=True)]).nodes
            check_operations(nodes)
        except SteerplugError as error:
            raise TorchCopyError(
                f"gradients cannot be followed through {model.path.name} ({model.architecture}): "
                f"{str(error).rstrip('.')}; {CURE}."
            ) from None
        self._weights = Weights(model, device)
        begin, self._head_reads = _output(nodes)
        self._head = nodes[begin:]
        self.n_vocab = nodes[begin].shape[-1]
        self.matrices = {
            w.name: (t.shape[-1], x.shape[-1]) for t in nodes[:begin] for w, x in _product(t)
        }
        """Matrices that multiply rows below the output, by name: (n_out, n_in)."""
        self.embeddings = _embeddings(nodes).name
        """The tensor that the first block reads."""
        self.cells = {
            t.root.name: t.sources[2] is not t.root for t in nodes if t.operation == "SET_ROWS"
        }
        """Keys and values of blocks, in turns; whether it is values that are kept transposed."""

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return self._weights.dtype

    @property
    def n_bytes(self) -> int:
        """How much memory its weights take that are not packed."""
        return self._weights.n_bytes

    def to_fastest_type(self) -> None:
        """Compute in the type in which the device multiplies quickest, from now on.

        What the model has packed is dequantised for good if there is room: a part of what is free.
        """
        room = _ROOM * free_bytes(self.device)
        ((output, _),) = _product(self._head[0])  # it multiplies most
        self._weights.to(fastest_type(self.device), room, [output.name, *self.matrices])

    def prefixes(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Return what llama.cpp remembers of the first tokens of some texts."""
        if self._recorder.n_seq < len(texts):
            return [self._prefixes([text])[0] for text in texts]
        return self._prefixes(texts)

    def _prefixes(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Return the same, of texts that are read together; what all begin with is read once."""
        context, common = self._recorder, max(n_common(texts), 0) if len(texts) > 1 else 0
        context.clear()
        rows = [Row(token, i) for i, token in enumerate(texts[0][:common])]
        self._decode(rows)
        for sequence in range(1, len(texts) if common else 0):
            context.share(0, sequence, 0, common)
        self._decode([
            Row(token, i, sequence=sequence)
            for sequence, text in enumerate(texts)
            for i, token in enumerate(text) if i >= common
        ])  # fmt: skip
        return [
            Prefix(len(text), context.save_whole(sequence)) if text else Prefix()
            for sequence, text in enumerate(texts)
        ]

    def _decode(self, rows: Sequence[Row]) -> None:
        context = self._recorder
        for begin in range(0, len(rows), context.n_batch):
            context.decode(rows[begin : begin + context.n_batch])

    def hidden(self, batch: Batch, changes_of: ChangesOf = unchanged) -> torch.Tensor:
        """Return the hidden states of the rows of a batch, one passage after another.

        Raises:
            TorchCopyError: a passage is longer than can be read at a time.
        """
        return torch.cat([self._hidden(some, changes_of(some)) for some in self._parts(batch)])

    def _hidden(self, batch: Batch, changes: Changes) -> torch.Tensor:
        nodes = self._laid_out(batch)
        begin, read = _output(nodes)
        computation = Computation(self._weights, changes.values, changes.beside)
        computation.run(nodes[:begin], kept=[read])
        hidden = computation.value(read)[0, 0]
        if len(hidden) != sum(len(passage.tokens) - passage.first for passage in batch):
            raise TorchCopyError(
                f"llama.cpp reads a batch of {self.model.architecture} in several parts; {CURE}."
            )
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits, (n_rows, n_vocab), in the type of the weights."""
        computation = Computation(self._weights)
        computation.give(self._head_reads, hidden[None, None])
        computation.run(self._head, kept=[self._head[-1]])
        return computation.value(self._head[-1])[0, 0]

    def at_blocks(self, addition: Addition, layers: Sequence[int]) -> Changes:
        """Return the changes by which something is added to the outputs of some blocks."""
        output = self.model.block_output

        def change(il: int, values: torch.Tensor) -> torch.Tensor | None:
            if output.mean:
                h = values[0].mean(1)
                added = addition(il, h)
                return None if added is None else values + added.expand_as(h)[:, None]
            added = addition(il, values[0, 0])
            return None if added is None else values + added

        return Changes({f"{output.tensor}-{il}": partial(change, il) for il in layers})

    def _parts(self, batch: Batch) -> list[Batch]:
        """Return the batch in as few parts as can be read at a time."""
        context, parts = self._recorder, list[list[Passage]]()
        for passage in batch:
            n = passage.prefix.n_tokens + len(passage.tokens)
            if len(passage.tokens) > context.n_batch or n > context.n_ctx:
                raise TorchCopyError(
                    f"a chat of {n} tokens is longer than torch reads here ({context.n_batch} that "
                    f"are steered, {context.n_ctx} in all); shorten it, or {CURE}."
                )
            if not parts or not self._fits([*parts[-1], passage]):
                parts.append([])
            parts[-1].append(passage)
        return list(parts)

    def _fits(self, batch: Batch) -> bool:
        context = self._recorder
        n_rows = sum(len(passage.tokens) for passage in batch)
        n_before = sum(prefix.n_tokens for prefix in {passage.prefix for passage in batch})
        return (
            len(batch) <= context.n_seq
            and n_rows <= context.n_batch
            and n_before + n_rows <= context.n_ctx
        )

    def _laid_out(self, batch: Batch) -> list[Tensor]:
        """Return llama.cpp's graph of a batch, behind what its prefixes left."""
        context, rows, places = self._recorder, list[Row](), dict[Prefix, int]()
        context.clear()
        for sequence, passage in enumerate(batch):
            prefix = passage.prefix
            if prefix in places:
                context.share(places[prefix], sequence, 0, prefix.n_tokens)
            elif prefix.state is not None:
                context.restore_whole(prefix.state, sequence)
                places[prefix] = sequence
            rows += [
                Row(token, prefix.n_tokens + i, i >= passage.first, sequence=sequence)
                for i, token in enumerate(passage.tokens)
            ]
        return context.record(rows).nodes


def _product(t: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the matrix and the rows that a node multiplies, if the matrix is of the file."""
    if t.operation != "MUL_MAT":
        return []
    w, x = t.sources[:2]
    assert w is not None
    assert x is not None
    return [(w, x)] if w.is_weight and w.shape[:2] == (1, 1) else []


def _embeddings(nodes: Sequence[Tensor]) -> Tensor:
    """Return the rows of the tokens; some architectures scale them first."""
    looked_up = next(t for t in nodes if t.operation == "GET_ROWS")
    scaled = (t for t in nodes if t.operation == "SCALE" and t.sources[0] is looked_up)
    return next(scaled, looked_up)


def _output(nodes: Sequence[Tensor]) -> tuple[int, Tensor]:
    """Return which node multiplies by the output matrix, and what it reads."""
    begin = next(i for i in reversed(range(len(nodes))) if _product(nodes[i]))
    ((_, read),) = _product(nodes[begin])
    return begin, read


def _on_host(model: Model) -> Model:
    """Return the model, loaded anew where its weights may lie on a device."""
    if tensors_on_host():
        return model
    asked = replace(
        model.loading, n_gpu_layers=0, devices=("none",), tensor_split=(), override_tensor=()
    )
    return Model(model.path, asked)
