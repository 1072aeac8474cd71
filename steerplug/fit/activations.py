"""Activations at chosen blocks, for rows of two texts that stand at the same place.

`h_il` is the residual stream leaving block il (0-based): llama.cpp's `l_out-{il}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steerplug.engine.context import Context, Row
from steerplug.engine.hook import Capture
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
    context: Context, tokens: Sequence[int], layers: Sequence[int], first_row: int
) -> Array:
    """Return unsteered activations of `tokens` from `first_row` on: (n_blocks, n_rows, n_embd).

    Raises:
        FitError: the text does not fit the context.
    """
    if len(tokens) > context.n_ctx:
        raise FitError(
            f"a text of the preset has {len(tokens)} tokens and the context holds {context.n_ctx}; "
            "shorten the preset's instruction, examples or texts."
        )
    context.clear()
    parts = []
    for start in range(0, len(tokens), context.n_batch):
        end = min(start + context.n_batch, len(tokens))
        # Every row is an output: the last block then keeps all of them.
        rows = [Row(tokens[i], i, output=True) for i in range(start, end)]
        wanted = Capture(layers, range(max(first_row - start, 0), end - start))
        captured = context.decode(rows, wanted)
        assert captured is not None
        parts.append(captured)
    return np.concatenate(parts, axis=1)


def of_lessons(
    context: Context, lessons: Sequence[Lesson], layers: Sequence[int], report: Report = silent
) -> Activations:
    """Return the rows of all lessons: prompted as the positive side, bare as the negative one."""
    sides: tuple[list[Array], list[Array]] = ([], [])
    for lesson in steps(lessons, "reading activations", report):
        for side, prompt in zip(sides, (lesson.prompted, lesson.bare), strict=True):
            tokens = (*prompt.tokens, *lesson.reply)
            side.append(capture(context, tokens, layers, len(prompt.tokens) - 1))
    positive, negative = (np.concatenate(side, axis=1).transpose(1, 0, 2) for side in sides)
    return Activations(positive, negative, tuple(layers))


def of_texts(
    context: Context,
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
    report: Report = silent,
) -> Activations:
    """Return one row per pair: each text's activations averaged over its tokens after BOS.

    Raises:
        FitError: a text has no tokens.
    """
    vocab = context.model.vocab
    bos = [vocab.bos] if vocab.bos >= 0 else []
    sides: tuple[list[Array], list[Array]] = ([], [])
    for pair in steps(pairs, "reading activations", report):
        for side, text in zip(sides, pair, strict=True):
            tokens = vocab.tokenize(text)
            if not tokens:
                raise FitError("a text of the contrast has no tokens; write at least one word.")
            side.append(capture(context, bos + tokens, layers, len(bos)).mean(axis=1))
    return Activations(np.stack(sides[0]), np.stack(sides[1]), tuple(layers))
