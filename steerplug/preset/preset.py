"""A preset: what to steer towards, how to fit it, and how hard to push, as read from YAML v1.

Contract: a `Preset` that exists is consistent. It has a teacher (the instruction or example turns
that steering replaces) or a contrast (texts with and without the trait), never both, and its method
suits that source. Positive strength gives more of what the preset names; strength 1.0 is the fitted
effect. `digest` changes exactly when the fit would read something else.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from steerplug.errors import PresetError, StrengthError
from steerplug.files.problems import explain
from steerplug.files.yaml_file import YamlFile, read_yaml
from steerplug.preset.checks import TEXT, Check, Frozen
from steerplug.preset.methods import AUTO, CHOICES, CONTRAST_ONLY, METHODS, SCALED, listed
from steerplug.preset.parts import (
    Contrast,
    Decoding,
    Example,
    Fit,
    Strength,
    Teacher,
    not_empty,
)
from steerplug.steering.terms import PRESET_NAME, Phase, Scope

__all__ = [
    "Contrast",
    "Decoding",
    "Example",
    "Fit",
    "Origin",
    "Preset",
    "Scope",
    "Strength",
    "Teacher",
    "check_range",
    "check_strength",
    "is_preset_name",
]

SCHEMA = "steerplug/preset-v1"
NAME = f"^{PRESET_NAME.pattern}$"
FILE_SUFFIXES = (".yaml", ".yml", ".gguf")
_VERSION = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"


def is_preset_name(name: str) -> bool:
    """Say whether `name` can name a preset: not `none`, a number or a file's name."""
    if not re.fullmatch(NAME, name) or name == "none" or name.endswith(FILE_SUFFIXES):
        return False
    try:
        float(name)
    except ValueError:
        return True
    return False


def _check_name(name: str) -> str:
    if not is_preset_name(name):
        raise ValueError(
            f"is {name!r}, but a name is 1 to 64 of a-z 0-9 . _ -, begins with a letter or digit, "
            "and is not `none`, a number or a file's name; write for example `name: pirate`"
        )
    return name


Name = Annotated[
    str,
    Field(json_schema_extra={"pattern": NAME, "not": {"const": "none"}}),
    AfterValidator(_check_name),
]
Version = Annotated[str, Field(pattern=_VERSION, max_length=64)]
Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


@dataclass(frozen=True)
class Origin:
    """The pack that a preset came in.

    Args:
        pack: its name and version, such as "sea@1.2.0".
        folder: where it lies; `folder/compiled` may hold the preset's steering for some models.
    """

    pack: str
    folder: Path


class Preset(Frozen):
    """An activation-steering preset for steerplug."""

    schema_: Literal["steerplug/preset-v1"] = Field(
        alias="schema", description="The version of this format.", examples=[SCHEMA]
    )
    name: Name = Field(description="The preset's name and its file's.", examples=["pirate"])
    version: Version = Field(
        "1.0.0", description="Version of the preset (semver).", examples=["1.0.0"]
    )
    description: Annotated[str, Field(max_length=1000), TEXT] = Field(
        "",
        description="What it does, and what too much of it looks like.",
        examples=["Answers like a pirate."],
    )
    license: Annotated[str, Field(max_length=100), TEXT] = Field(
        "", description="Licence of the preset (SPDX).", examples=["MIT"]
    )
    tags: tuple[Tag, ...] = Field((), max_length=16, description="Topics.", examples=[["style"]])
    teacher: Teacher | None = Field(
        None,
        description="The prompt that the preset replaces.",
        examples=[{"system": "Answer like a pirate."}],
    )
    contrast: Contrast | None = Field(
        None,
        description="Instead of a teacher: texts with and without the trait.",
        examples=[{"positive": "Love", "negative": "Hate"}],
    )
    fit: Fit = Field(
        default_factory=Fit, description="How to fit it.", examples=[{"method": "mean"}]
    )
    scope: Scope = Field(
        "response",
        description="Which tokens are steered: the replies, all, or (exactly with actadd, where it "
        "is the default) the front of the prompt.",
        examples=["response"],
    )
    strength: Strength = Field(
        default_factory=Strength, description="How hard to push.", examples=[{"default": 1.0}]
    )
    decoding: Decoding | None = Field(
        None,
        description="Constrain the reply as well as steer it, or say which phases of it to steer.",
        examples=[{"format": "json"}, {"steered": ["thinking"]}],
    )
    checks: tuple[Check, ...] = Field(
        (), max_length=32, description="What replies must keep.", examples=[[{"kind": "json"}]]
    )

    _origin: Origin | None = PrivateAttr(None)

    _no_null = field_validator("teacher", "contrast", "decoding", mode="before")(not_empty)

    @model_validator(mode="before")
    @classmethod
    def _actadd_steers_the_front(cls, data: object) -> object:
        if isinstance(data, Mapping) and "scope" not in data:
            fit = data.get("fit")
            if isinstance(fit, Mapping) and fit.get("method") in CONTRAST_ONLY:
                return {**data, "scope": "front"}
        return data

    @model_validator(mode="after")
    def _method_suits_the_source(self) -> Self:
        name, method = self.fit.method, METHODS[self.fit.method]
        if (self.teacher is None) == (self.contrast is None):
            count = "neither" if self.teacher is None else "both"
            raise ValueError(f"the preset has {count} of `teacher` and `contrast`; give it one")
        if self.teacher is None and not method.takes_contrast:
            raise ValueError(
                f"method `{name}` distils a teacher, but the preset has a contrast; use "
                f"{listed(SCALED)}, or give it a `teacher`"
            )
        if method.steers_front and (self.contrast is None or len(self.contrast.pairs) != 1):
            raise ValueError(
                f"method `{name}` needs a `contrast` of exactly one pair; give one, or use mean"
            )
        if method.steers_front != (self.scope == "front"):
            raise ValueError(
                f"scope `{self.scope}` does not go with method `{name}`; scope front belongs to "
                f"{CONTRAST_ONLY[0]}, and to {CONTRAST_ONLY[0]} alone"
            )
        return self

    @staticmethod
    def from_mapping(data: Mapping[str, object], source: str = "the preset") -> "Preset":
        """Return the preset that plain values describe; keys are those of the YAML.

        Raises:
            PresetError: a key or value is wrong; the sentence names the first one and its cure.
        """
        return _validated(YamlFile(source, data))

    @staticmethod
    def from_yaml(content: bytes, source: str = "the preset") -> "Preset":
        """Return the preset that a YAML file describes; `source` is what messages call the file.

        Raises:
            PresetError: it is not plain YAML, or a key or value is wrong.
        """
        return _validated(read_yaml(content, source))

    @property
    def origin(self) -> Origin | None:
        """The pack it came in, if any; no part of what the preset says."""
        return self._origin

    def from_pack(self, origin: Origin) -> "Preset":
        """Return the same preset, knowing the pack it came in."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    @property
    def format(self) -> str:
        """What every reply is held to: "json", or empty."""
        return (self.decoding and self.decoding.format) or ""

    @property
    def unsteered(self) -> tuple[Phase, ...]:
        """What steering leaves out of a reply."""
        return (self.decoding and self.decoding.unsteered) or ()

    @property
    def steered(self) -> tuple[Phase, ...]:
        """What steering does not leave out of a reply, though it would."""
        return (self.decoding and self.decoding.steered) or ()

    def passes(self, reply: str) -> bool:
        """Say whether a reply keeps all that the preset's checks promise."""
        return all(check.passes(reply) for check in self.checks)

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) of what the fit reads: teacher or contrast, fit, scope and decoding.

        Keys left at their default do not count, so a key added to the format later leaves the
        digests of older presets alone. What `auto` may choose is fitted from the same text, so it
        counts as the first of these.
        """
        read = self.model_dump(
            mode="json",
            include={"teacher", "contrast", "fit", "scope", "decoding"},
            exclude_defaults=True,
        )
        if self.fit.method == AUTO:
            read["fit"] = {**read.get("fit", {}), "method": CHOICES[0]}
        text = json.dumps([SCHEMA, read], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _validated(file: YamlFile) -> Preset:
    try:
        return Preset.model_validate(dict(file.data))
    except ValidationError as error:
        raise PresetError(explain(error, Preset, file)) from None


def check_strength(preset: Preset, strength: float) -> None:
    """Refuse a strength that the preset was not made for; see `check_range`."""
    check_range(preset.name, strength, preset.strength.min, preset.strength.max)


def check_range(name: str, strength: float, least: float, most: float) -> None:
    """Refuse a strength that the preset of that name, with that `min` and `max`, was not made for.

    Allowed is -max to max, because a mix may subtract a preset; below -max only where the preset's
    own `min` goes further down.

    Raises:
        StrengthError: the strength is NaN, infinite or beyond that range.
    """
    least = min(least, -most)
    if not least <= strength <= most:  # also refuses NaN
        raise StrengthError(
            f"strength {strength:g} is beyond the range of `{name}`; "
            f"give a number from {least:g} to {most:g}."
        )
