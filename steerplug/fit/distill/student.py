"""The GGUF's own weights in torch: what the bare and the prompted model compute, with gradients.

Rows are what is compared: the boundary token and the reply. Tokens before the first steered one
never change, so their keys and values are computed once per lesson, and every step of the training
starts behind them.

Shapes: hidden (n_rows, n_embd), what the output matrix reads, for the rows of a whole batch.
Passages of a batch are padded on the right, their prefixes on the left.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from steerplug.fit.distill.packing import packed_of, unpack
from steerplug.fit.distill.weights import fastest_type, free_bytes

Edit = Callable[[int, torch.Tensor], torch.Tensor | None]
"""(block, its output h) -> what takes the place of h, or None to leave it."""

_ROOM = 0.25
"""The share of free memory that dequantised weights may take."""

_PIECE = 256
"""Tokens of a prefix that are read at a time: scores of all pairs of a long one fill memory."""


@dataclass(frozen=True)
class Prefix:
    """Tokens that are never steered, as what follows goes on from them.

    Args:
        keys: (n_heads, n_tokens, n) for each block that has its own.
        values: the same.
        tokens: they themselves, where the model's memory is a running state, and they are read
            again each time.
    """

    keys: tuple[torch.Tensor, ...] = ()
    values: tuple[torch.Tensor, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        """How many tokens it holds."""
        return int(self.keys[0].shape[1]) if self.keys else len(self.tokens)


@dataclass(frozen=True)
class Passage:
    """Tokens after a prefix; those from `first` on are rows."""

    prefix: Prefix
    tokens: tuple[int, ...]
    first: int


class Student:
    """A frozen causal language model whose blocks can be watched and steered.

    Args:
        module: a transformers model.
        device: where it computes.
        is_recurrent: whether its memory is a running state, which gradients cannot go on from.
    """

    def __init__(self, module: Any, device: torch.device, *, is_recurrent: bool = False) -> None:
        self.module, self.device, self.is_recurrent = module, device, is_recurrent
        self.decoder, self.head = module.get_decoder(), module.get_output_embeddings()
        self.blocks = self._find_blocks()
        self._cap, self._scale = _of_logits(module.config)
        renamed = "cache" in inspect.signature(self.decoder.forward).parameters
        self._cache_name = "cache" if renamed else "past_key_values"  # before transformers 5.24

    def to_fastest_type(self) -> None:
        """Compute in the type in which the device multiplies quickest, from now on.

        What the model has packed is dequantised for good if there is room: a part of what is free.
        """
        dtype = fastest_type(self.device)
        self.module.to(dtype)
        for part, own in packed_of(self.module):
            getattr(part, own).dtype = dtype
        unpack(self.module, _ROOM * free_bytes(self.device))

    @property
    def n_bytes(self) -> int:
        """How much memory its weights take that are not packed."""
        return sum(weight.nbytes for weight in self.module.parameters())

    def _find_blocks(self) -> Any:
        """Return the blocks, which older architectures call `h`."""
        return self.decoder.layers if hasattr(self.decoder, "layers") else self.decoder.h

    @torch.no_grad()
    def prefixes(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Return the keys and values of the first tokens of some texts, unsteered."""
        if self.is_recurrent:
            return [Prefix(tokens=tuple(text)) for text in texts]
        if not any(texts):
            return [Prefix() for _ in texts]
        batch = [Passage(Prefix(), tuple(text), 0) for text in texts]
        tokens, seen, _ = _laid_out(batch, 0)
        cache = DynamicCache()  # without a config, which would drop what a sliding window passed
        for i in range(0, tokens.shape[1], _PIECE):
            self.decoder(
                tokens[:, i : i + _PIECE].to(self.device),
                attention_mask=seen[:, : i + _PIECE].to(self.device),
                use_cache=True,
                **{self._cache_name: cache},
            )
        return [
            Prefix(
                tuple(layer.keys[i, :, : len(text)] for layer in cache.layers),
                tuple(layer.values[i, :, : len(text)] for layer in cache.layers),
            )
            for i, text in enumerate(texts)
        ]

    def read_on(self, embeddings: torch.Tensor, after: Prefix) -> Prefix:
        """Return a prefix gone on with by embeddings, (n, n_embd), in the place of n tokens.

        Gradients are followed through it.
        """
        n_before, n = after.n_tokens, len(embeddings)
        cache = self._cache([Passage(after, (), 0)], n_before)
        self.decoder(
            inputs_embeds=embeddings[None],
            position_ids=torch.arange(n_before, n_before + n, device=self.device)[None],
            use_cache=True,
            **{self._cache_name: cache},
        )
        return Prefix(
            tuple(layer.keys[0] for layer in cache.layers),
            tuple(layer.values[0] for layer in cache.layers),
        )

    def hidden(self, batch: Sequence[Passage], edit: Edit | None = None) -> torch.Tensor:
        """Return the hidden states of the rows of a batch, one passage after another."""
        if self.is_recurrent:
            return self._hidden_anew(batch, edit)
        n_prefix = max(passage.prefix.n_tokens for passage in batch)
        tokens, seen, positions = _laid_out(batch, n_prefix)
        with self._edited(edit):
            states = self.decoder(
                tokens.to(self.device),
                attention_mask=seen.to(self.device),
                position_ids=positions.to(self.device),
                use_cache=True,
                **{self._cache_name: self._cache(batch, n_prefix)},
            ).last_hidden_state
        return rows_of(states, batch)

    def _hidden_anew(self, batch: Sequence[Passage], edit: Edit | None) -> torch.Tensor:
        """Return the same, from the first token of each prefix on."""
        n = max(len(passage.tokens) for passage in batch)
        begins = torch.tensor([passage.prefix.n_tokens for passage in batch])
        place = (begins[:, None] + torch.arange(n))[..., None].to(self.device)
        texts = [
            Passage(Prefix(), (*passage.prefix.tokens, *passage.tokens), 0) for passage in batch
        ]
        tokens, seen, _ = _laid_out(texts, 0, n_tokens=int(begins.max()) + n)

        def after_prefix(h: torch.Tensor) -> torch.Tensor:
            return h.gather(1, place.expand(-1, -1, h.shape[-1]))

        def edit_after_prefix(il: int, h: torch.Tensor) -> torch.Tensor | None:
            edited = edit(il, after_prefix(h)) if edit else None
            return None if edited is None else h.scatter(1, place.expand_as(edited), edited)

        with self._edited(edit_after_prefix if edit else None):
            states = self.decoder(
                tokens.to(self.device), attention_mask=seen.to(self.device), use_cache=False
            ).last_hidden_state
        return rows_of(after_prefix(states), batch)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits, (n_rows, n_vocab), in the type of the weights."""
        logits: torch.Tensor = self.head(hidden)
        logits = logits if self._scale == 1 else logits * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def _cache(self, batch: Sequence[Passage], n_prefix: int) -> DynamicCache:
        cache = DynamicCache()
        n_held = max(len(passage.prefix.keys) for passage in batch)  # some blocks share theirs
        for il in range(n_held if n_prefix else 0):
            keys = [_padded(passage.prefix.keys[il], n_prefix) for passage in batch]
            values = [_padded(passage.prefix.values[il], n_prefix) for passage in batch]
            cache.update(torch.stack(keys), torch.stack(values), il)
        return cache

    @contextlib.contextmanager
    def _edited(self, edit: Edit | None) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:
            for il, block in enumerate(self.blocks if edit else ()):
                hooks.callback(block.register_forward_hook(_hook(il, edit)).remove)
            yield


def _of_logits(config: Any) -> tuple[float | None, float]:
    """Return how an architecture caps and scales what its output matrix says."""
    scale = getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1)
    return getattr(config, "final_logit_softcapping", None), float(scale)


def _laid_out(
    batch: Sequence[Passage], n_prefix: int, n_tokens: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, what each may see, and positions of a padded batch."""
    n_tokens = n_tokens or max(len(passage.tokens) for passage in batch)
    tokens = torch.zeros(len(batch), n_tokens, dtype=torch.long)
    seen = torch.zeros(len(batch), n_prefix + n_tokens, dtype=torch.long)
    positions = torch.zeros_like(tokens)
    for i, passage in enumerate(batch):
        before, n = passage.prefix.n_tokens, len(passage.tokens)
        tokens[i, :n] = torch.tensor(passage.tokens)
        seen[i, n_prefix - before : n_prefix + n] = 1
        positions[i] = torch.arange(before, before + n_tokens)
    return tokens, seen, positions


def rows_of(states: torch.Tensor, batch: Sequence[Passage]) -> torch.Tensor:
    """Return the rows of a padded batch (B, n_tokens, n_embd), one passage after another."""
    return torch.cat(
        [states[i, passage.first : len(passage.tokens)] for i, passage in enumerate(batch)]
    )


def _padded(side: torch.Tensor, n_prefix: int) -> torch.Tensor:
    return torch.nn.functional.pad(side, (0, 0, n_prefix - side.shape[1], 0))


def _hook(il: int, edit: Edit | None) -> Callable[[Any, Any, Any], Any]:
    def replace(_module: Any, _inputs: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        edited = edit(il, h) if edit else None
        if edited is None:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    return replace
