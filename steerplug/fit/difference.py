"""Steering from differences of activations: `actadd`, `mean` and `pca`; no gradients, no framework.

actadd  z[p] = h_plus[p] - h_minus[p]          p = 0..T-1, both prompts behind BOS, the shorter one
                                               padded on the right with the space token
mean    z = mean over rows (h_plus - h_minus)  rows as in `activations`
pca     z = m v, v the first principal component of the pairs centred by pair, |v| = 1,
        m = mean over rows of (h_plus - h_minus) . v, so that its sign is positive's

Shapes: z (n_embd,), or (T, n_embd) for actadd. Unit: strength 1.0 adds the difference once, as
measured. The activation "before block L" of the literature is h_(L-1) here.
Source: activation addition, arXiv 2308.10248 and llama.cpp issue 1460; difference of means, AxBench
arXiv 2501.17148; pair centring matters because PCA of plain differences removes their mean.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from steerplug.engine.reader import Reader
from steerplug.errors import FitError
from steerplug.fit.activations import Activations, capture
from steerplug.steering.value import Array

Directions = Mapping[int, Array]
"""Block il -> what strength 1.0 adds there: (n_embd,), or (T, n_embd) for actadd."""


def actadd(reader: Reader, pair: tuple[str, str], layers: Sequence[int]) -> Directions:
    """Return the position-wise difference of two prompts at each block."""
    vocab = reader.context.model.vocab
    sides = [[*vocab.start, *vocab.tokenize(text)] for text in pair]
    length = max(map(len, sides))
    plus, minus = (
        capture(reader, side + [vocab.space] * (length - len(side)), layers, 0) for side in sides
    )
    return {il: plus[i] - minus[i] for i, il in enumerate(layers)}


def mean(rows: Activations) -> Directions:
    """Return the mean difference at each block."""
    difference = (rows.positive - rows.negative).mean(axis=0)
    return {il: difference[i] for i, il in enumerate(rows.layers)}


def pca(rows: Activations) -> Directions:
    """Return the first principal component of the pair-centred rows at each block.

    Centred by pair, the rows are +d/2 and -d/2 for each difference d, so their principal components
    are those of the uncentred differences.
    """
    return {
        il: _principal(rows.positive[:, i] - rows.negative[:, i])
        for i, il in enumerate(rows.layers)
    }


def _principal(differences: Array) -> Array:
    _, _, components = np.linalg.svd(differences.astype(np.float64), full_matrices=False)
    along = float((differences @ components[0]).mean())
    if along == 0:
        raise FitError("the contrast's pairs cancel out; write pairs that differ in one way.")
    return np.asarray(along * components[0], np.float32)
