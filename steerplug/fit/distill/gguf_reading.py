"""gguf's reader, without the tokeniser: what torch computes with are tensors and numbers.

gguf makes several arrays of every item of a list, one after the other, which for a vocabulary and
its merges takes longer than the weights themselves.
"""

import struct
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType as Kind


class TensorReader(gguf.GGUFReader):
    """A reader whose lists of texts have as many items as the file's, all of them empty."""

    def _get_field_parts(self, begin: int, kind: int) -> tuple[int, list[Any], list[int], Any]:
        if kind != Kind.ARRAY or self.byte_order != "I":
            found: tuple[int, list[Any], list[int], Any] = super()._get_field_parts(begin, kind)
            return found
        of, n = (int(self._get(begin + at, kind_of)[0]) for at, kind_of in ((0, "u4"), (4, "u8")))
        first, types = begin + 12, [Kind.ARRAY, Kind(of)] if n else [Kind.ARRAY]
        if of == Kind.STRING:
            return self._past_texts(first, n) - begin, [_EMPTY], [0] * n, types
        number = self.gguf_scalar_to_np.get(Kind(of))
        if number is None:
            return super()._get_field_parts(begin, kind)  # type: ignore[no-any-return]
        values = self._get(first, number, n)
        return 12 + values.nbytes, list(values[:, None]), list(range(n)), types

    def _past_texts(self, at: int, n: int) -> int:
        """Return where a list of n texts ends that begins there."""
        for _ in range(n):
            at += 8 + struct.unpack_from("<Q", self.data, at)[0]
        return at


_EMPTY = np.zeros(0, np.uint8)
