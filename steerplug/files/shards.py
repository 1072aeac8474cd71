"""A GGUF in several files, named as llama.cpp's `gguf-split` does: `NAME-00001-of-00003.gguf`.

llama.cpp is given the first and finds the others beside it by their names.
"""

import re
from pathlib import Path

from steerplug.errors import ModelNotFound

_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


def shard_names(name: str) -> list[str]:
    """Return the names of all files of the model of which `name` is one: often of it alone."""
    match = _SPLIT.fullmatch(name)
    count = int(match["count"]) if match else 0
    if match is None or not 0 < int(match["number"]) <= count:
        return [name]
    return [f"{match['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]


def shards(path: Path) -> list[Path]:
    """Return all files of the model of which `path` is one."""
    names = shard_names(path.name)
    return [path.with_name(name) for name in names] if len(names) > 1 else [path]


def first_shard(path: Path) -> Path:
    """Return the file that llama.cpp is given of a model in several.

    Raises:
        ModelNotFound: one of the files is not there.
    """
    files = shards(path)
    for file in files:
        if not file.is_file():
            raise ModelNotFound(
                f"{file} is not there, one of the {len(files)} files of this model; put them all "
                "into one folder."
            )
    return files[0]
