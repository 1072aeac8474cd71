"""A matrix as `torch.save` writes a tensor, for tools that read nothing else; torch is not needed.

The file is an archive: `data.pkl` says what the tensor is, and `data/0` holds its numbers. The
pickle names two things of torch and runs nothing else, so `torch.load` takes it with its default
`weights_only=True`.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np

from steerplug.steering.value import Array

_FOLDER = "archive"
_REBUILD = b"torch._utils\n_rebuild_tensor_v2\n"
_STORAGE = b"torch\nFloatStorage\n"
_NO_HOOKS = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE


def write_tensor(path: Path, matrix: Array) -> None:
    """Write a matrix, (rows, columns), as a tensor of float32 on the CPU."""
    data = np.ascontiguousarray(matrix, "<f4").tobytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{_FOLDER}/data.pkl", _described(*matrix.shape))
        archive.writestr(f"{_FOLDER}/byteorder", "little")
        archive.writestr(f"{_FOLDER}/data/0", data)
        archive.writestr(f"{_FOLDER}/version", "3\n")


def _described(rows: int, columns: int) -> bytes:
    """Return the pickle of a tensor whose numbers are in `data/0`, row by row."""
    storage = _tuple(
        _text("storage"), pickle.GLOBAL + _STORAGE, _text("0"), _text("cpu"), _int(rows * columns)
    )
    tensor = _tuple(
        storage + pickle.BINPERSID, _int(0), _tuple(_int(rows), _int(columns)),
        _tuple(_int(columns), _int(1)), pickle.NEWFALSE, _NO_HOOKS,
    )  # fmt: skip
    return pickle.PROTO + b"\2" + pickle.GLOBAL + _REBUILD + tensor + pickle.REDUCE + pickle.STOP


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + len(text).to_bytes(4, "little") + text.encode()


def _int(number: int) -> bytes:
    return pickle.BININT + number.to_bytes(4, "little", signed=True)
