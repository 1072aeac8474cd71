"""What tests of fits share: cells of a tiny model."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading


@pytest.fixture(scope="module")
def tiny(tiny_llama: Callable[..., Path]) -> Iterator[Reader]:
    """Cells of a model of random weights, of five blocks 64 wide."""
    with reading(Model(tiny_llama()), 64) as reader:
        yield reader
