"""All that is wrong with preset files, line by line.

Reading a preset stops at its first problem; this goes on to the last that can be told. The
`pack.yaml` of a pack is no preset, and is read as what it is.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from steerplug.errors import PackError, PresetError, unreadable
from steerplug.files.problems import findings
from steerplug.files.yaml_file import MAX_BYTES, read_yaml
from steerplug.library.presets import find_preset
from steerplug.packs.manifest import HEAD, read_head
from steerplug.preset import NAME, Preset

_LINE = re.compile(r", line ([0-9]+)(?=: )")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file.

    Args:
        path: the file.
        line: where, counted from 1; None if it is not about a line.
        said: what is wrong and the cure, a sentence that begins with the file.
    """

    path: Path
    line: int | None
    said: str


def preset_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among `paths`, and the YAML files at any depth of the folders among them.

    What is no path may be a preset's name. Hidden files, and files behind links within a folder,
    are left out.

    Raises:
        PresetError: a path is not there, or a folder holds no YAML file.
    """
    for path in paths:
        if not path.is_dir():
            yield path if path.exists() else find_preset(str(path))
            continue
        files = list(_within(path))
        if not files:
            raise PresetError(f"the folder {path} holds no .yaml file; name one with presets.")
        yield from files


def lint(path: Path) -> list[Problem]:
    """Return what is wrong with a preset file, in the order of its lines."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return [Problem(path, None, f"{path} {unreadable(error)}")]
    try:
        if path.name == HEAD:
            read_head(content, str(path))
            return []
        yaml_file = read_yaml(content, str(path))
    except (PresetError, PackError) as error:
        return [_problem(path, str(error))]
    try:
        preset = Preset.model_validate(dict(yaml_file.data))
    except ValidationError as error:
        problems = [
            _problem(path, finding.sentence(yaml_file))
            for finding in findings(error, Preset, yaml_file)
        ]
        return sorted(problems, key=lambda problem: problem.line or 0)
    if preset.name != path.stem:
        is_name = re.fullmatch(NAME, path.stem) is not None
        other = f", or write `name: {path.stem}`" if is_name else ""
        sentence = (
            f"{yaml_file.at(('name',))}: `name` is {preset.name!r}, but a preset's file is called "
            f"after it; call the file {preset.name}.yaml{other}."
        )
        return [_problem(path, sentence)]
    return []


def _within(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root) / name
            is_yaml = path.suffix in (".yaml", ".yml")
            if is_yaml and not name.startswith(".") and not path.is_symlink():
                yield path


def _problem(path: Path, said: str) -> Problem:
    line = _LINE.match(said, len(str(path))) if said.startswith(str(path)) else None
    return Problem(path, int(line[1]) if line else None, said)
