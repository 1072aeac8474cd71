"""What a preset says: its file, mixes of presets, and what its replies are checked for."""

from steerplug.preset.preset import (
    FILE_SUFFIXES,
    NAME,
    SCHEMA,
    Example,
    Name,
    Origin,
    Preset,
    Teacher,
    Version,
    check_range,
    check_strength,
    is_preset_name,
)

__all__ = [
    "FILE_SUFFIXES",
    "NAME",
    "SCHEMA",
    "Example",
    "Name",
    "Origin",
    "Preset",
    "Teacher",
    "Version",
    "check_range",
    "check_strength",
    "is_preset_name",
]
