"""Activations at chosen blocks, for rows of two texts that stand at the same place.

`h_il` is the residual stream leaving block il (0-based): llama.cpp's `l_out-{il}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import Array


@dataclass(frozen=True)
class Activations:
    """Paired rows at several blocks; row i of both sides belongs together.

    Args:
        positive, negative: (n_rows, n_blocks, n_embd) float32.
        layers: the block of each slice, (n_blocks,).

    Raises:
        FitError: shapes differ, there are no rows, or a number is not finite.
    """

    positive: Array
    negative: Array
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = self.positive.shape
        if shape != self.negative.shape or shape[1] != len(self.layers) or not shape[0]:
            raise FitError(
                f"activations of shape {shape} and {self.negative.shape} do not pair up over "
                f"{len(self.layers)} blocks; give both sides the same rows."
            )
        if not (np.isfinite(self.positive).all() and np.isfinite(self.negative).all()):
            raise FitError("the model produced activations that are not finite; try another one.")


def capture(
    reader: Reader, tokens: Sequence[int], layers: Sequence[int], first_row: int
) -> Array:
    """Return unsteered activations of `tokens` from `first_row` on: (n_blocks, n_rows, n_embd).

    Raises:
        FitError: the text does not fit the context.
    """
    context = reader.context
    if len(tokens) > context.n_ctx:
        raise FitError(
            f"a text of the preset has {len(tokens)} tokens and the context holds {context.n_ctx}; "
            "shorten the preset's instruction, examples or texts."
        )
    # The last block computes only the rows whose logits are asked for.
    output = context.model.n_layer - 1 in layers
    rows = [Row(token, i, output and i >= first_row) for i, token in enumerate(tokens)]
    reader.hold(rows[:first_row])
    parts = [batch.captured for batch in reader.decode(rows[first_row:], layers)]
    return np.concatenate([part for part in parts if part is not None], axis=1)


def of_lessons(
    reader: Reader, lessons: Sequence[Lesson], layers: Sequence[int], report: Report = silent
) -> Activations:
    """Return the rows of all lessons: prompted as the positive side, bare as the negative one."""
    prompted = [lesson.prompted for lesson in lessons]
    bare = [lesson.bare for lesson in lessons]
    # One side after the other, because all prompts of a side begin alike.
    positive, negative = (
        _side(reader, lessons, prompts, layers, report) for prompts in (prompted, bare)
    )
    return Activations(positive, negative, tuple(layers))


def _side(
    reader: Reader,
    lessons: Sequence[Lesson],
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    report: Report,
) -> Array:
    """Return the rows of all lessons after one kind of prompt: (n_rows, n_blocks, n_embd)."""
    pairs = list(zip(prompts, lessons, strict=True))
    rows = [
        capture(reader, (*prompt.tokens, *lesson.reply), layers, len(prompt.tokens) - 1)
        for prompt, lesson in steps(pairs, "reading activations", report)
    ]
    return np.concatenate(rows, axis=1).transpose(1, 0, 2)


def of_texts(
    reader: Reader,
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
    report: Report = silent,
) -> Activations:
    """Return one row per pair: each text's activations averaged over its tokens after BOS.

    Raises:
        FitError: a text has no tokens.
    """
    vocab = reader.context.model.vocab
    sides: tuple[list[Array], list[Array]] = ([], [])
    for pair in steps(pairs, "reading activations", report):
        for side, text in zip(sides, pair, strict=True):
            tokens = vocab.tokenize(text)
            if not tokens:
                raise FitError("a text of the contrast has no tokens; write at least one word.")
            tokens = [*vocab.start, *tokens]
            side.append(capture(reader, tokens, layers, len(vocab.start)).mean(axis=1))
    return Activations(np.stack(sides[0]), np.stack(sides[1]), tuple(layers))
