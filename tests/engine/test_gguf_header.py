"""What a GGUF states, against gguf's own reader."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from steerplug.engine.gguf_header import read_gguf_header
from steerplug.errors import ModelError
from tests.helpers.tiny_models import tiny_model


@pytest.mark.parametrize("name", ["gemma4", "apertus", "qwen35"])
def test_metadata_and_tensors_are_those_of_ggufs_reader(name: str) -> None:
    header, oracle = read_gguf_header(tiny_model(name)), gguf.GGUFReader(tiny_model(name))
    assert header.tensors == {tensor.name: int(tensor.tensor_type) for tensor in oracle.tensors}
    assert header.shapes == {
        tensor.name: (int(tensor.shape[0]), int(np.prod(tensor.shape[1:])))
        for tensor in oracle.tensors
    }
    last = max(oracle.tensors, key=lambda tensor: tensor.data_offset)
    assert header.n_bytes == last.data_offset + last.n_bytes
    stated = {
        key: field.contents()
        for key, field in oracle.fields.items()
        if not key.startswith("GGUF.") and field.types != [9, 8]  # lists of texts
    }
    assert header.metadata == stated


def test_a_file_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.gguf is a damaged GGUF \(.*; download it"):
        read_gguf_header(tmp_path / "gone.gguf")
