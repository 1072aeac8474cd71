"""A preset becomes a file: its YAML, and NAME.yaml in a folder, whole or not at all.

Contract: `Preset.from_yaml(to_yaml(preset).encode())` equals `preset`, whatever its texts hold. The
keys are those the preset was made with, in the order of the schema. A file that is there is never
overwritten.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from steerplug.errors import PresetError
from steerplug.files.whole_file import write_whole
from steerplug.library.presets import shipped_folder, user_folder
from steerplug.preset import Preset
from steerplug.preset.schema import SCHEMA_FILE

_WIDTH = 88  # PyYAML breaks a line at the first space beyond it
_LONG = 72  # characters; a longer text gets lines of its own, and so do the items of a longer list
_NEEDS_QUOTES = re.compile(r"[\r\x85\u2028\u2029]|\A\s|[ \t]\Z")  # breaks a block would lose
_ONE_LINE = ("fit", "strength", "decoding", "tags", "layers", "phrases")


def to_yaml(preset: Preset) -> str:
    """Return the text that `Preset.from_yaml` reads as `preset`."""
    data = preset.model_dump(mode="json", by_alias=True, exclude_unset=True)
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text


def save_preset(preset: Preset, folder: Path | None = None) -> Path:
    """Write a preset into a folder, and return its path there.

    Args:
        preset: the preset; its file is NAME.yaml.
        folder: where; default: the user's folder, whose presets are found by name.

    Raises:
        PresetError: the folder has a preset of that name, or cannot be written; in the user's
            folder, the preset would hide one that ships; or its YAML would be too large.
    """
    folder = user_folder() if folder is None else folder
    path = folder / f"{preset.name}.yaml"
    _refuse_taken(preset.name, folder)
    head = f"# yaml-language-server: $schema={SCHEMA_FILE.as_uri()}\n"
    content = (head + to_yaml(preset)).encode()
    Preset.from_yaml(content, str(path))  # what could not be read is not written
    try:
        write_whole(path, content, over=False)
    except OSError as error:
        raise PresetError(
            f"{path} cannot be written ({error.strerror or error}); choose a folder with space "
            "that you may write to."
        ) from None
    return path


def _refuse_taken(name: str, folder: Path) -> None:
    for path in (folder / f"{name}.yaml", folder / f"{name}.yml"):
        if os.path.lexists(path):
            raise PresetError(
                f"there is {path} already; choose another name, or remove that file first."
            )
    is_found_by_name = folder.absolute() == user_folder().absolute()
    if is_found_by_name and (shipped_folder() / f"{name}.yaml").exists():
        raise PresetError(
            f"`{name}` is a preset that ships with steerplug, and yours would hide it; choose "
            "another name, or another folder than that of your presets."
        )


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, writing as the shipped presets are written."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent the items of a list further than its key."""
        super().increase_indent(flow, False)

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Write paragraphs line by line, a long line as folded text, the rest as PyYAML does.

        PyYAML itself turns to double quotes where a block cannot hold a text exactly.
        """
        style = None
        if _NEEDS_QUOTES.search(text):
            style = '"'
        elif "\n" in text:
            style = "|"
        elif len(text) > _LONG and "  " not in text:
            style = ">"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)

    def represent_mapping(
        self, tag: str, mapping: Any, flow_style: bool | None = None
    ) -> yaml.MappingNode:
        """Write a mapping key by key, and the short values of some keys on one line."""
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = False
        for key, value in node.value:
            if key.value in _ONE_LINE and isinstance(value, yaml.CollectionNode):
                value.flow_style = _is_short(value)
        return node


def _is_short(node: yaml.CollectionNode) -> bool:
    """Say whether a list or mapping holds little: a few words, numbers, or lists as short."""
    children = [
        child for item in node.value for child in (item if isinstance(item, tuple) else (item,))
    ]
    lists = [child for child in children if not isinstance(child, yaml.ScalarNode)]
    length = sum(len(child.value) for child in children)
    return length <= _LONG and all(child.flow_style for child in lists)


_Dumper.add_representer(str, _Dumper.represent_str)
