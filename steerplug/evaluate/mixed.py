"""A mix of presets as one preset: what a model would be told that is to do all of it."""

from collections.abc import Sequence
from typing import Any

from steerplug.preset import SCHEMA, Preset


def mixed(presets: Sequence[Preset], added: Sequence[bool]) -> Preset:
    """Return what a mix is measured against: its presets' teachers, checks and decoding together.

    Instructions follow one another in one system text, and so do example turns. What a mix
    subtracts is not asked for, unless it does nothing else: then it is measured against just that,
    and should close less than nothing of the gap. Contrasts count where no preset has a teacher.

    Args:
        presets: those of the mix.
        added: for each, whether it is added, not subtracted.

    Raises:
        PresetError: together they are more than one preset may hold.
    """
    asked = [preset for preset, adds in zip(presets, added, strict=True) if adds or not any(added)]
    asked = list(dict.fromkeys(asked))
    if len(asked) == 1:
        return asked[0]
    data: dict[str, Any] = {
        "schema": SCHEMA, "name": "mix", "fit": {"method": "mean", "prompts": _fitted(asked)},
        "checks": [check.model_dump() for preset in asked for check in preset.checks],
    }  # fmt: skip
    teachers = [preset.teacher for preset in asked if preset.teacher]
    if teachers:
        systems = [teacher.system for teacher in teachers if teacher.system]
        data["teacher"] = {
            **({"system": "\n\n".join(systems)} if systems else {}),
            "examples": [turn.model_dump() for teacher in teachers for turn in teacher.examples],
        }
    else:
        pairs = [pair for preset in asked if preset.contrast for pair in preset.contrast.pairs]
        data["contrast"] = {"positive": [a for a, _ in pairs], "negative": [b for _, b in pairs]}
    for preset in asked:
        if preset.decoding:
            settings = preset.decoding.model_dump(exclude_unset=True)
            data["decoding"] = {**data.get("decoding", {}), **settings}
    if "thinking" in data.get("decoding", {}).get("unsteered", ()):
        data["decoding"].pop("steered", None)
    return Preset.from_mapping(data, "the mix")


def _fitted(presets: Sequence[Preset]) -> Any:
    """Return the prompts that any of the presets was fitted on."""
    lists = [preset.fit.prompts for preset in presets if preset.fit.prompts != "general"]
    return list(dict.fromkeys(prompt for prompts in lists for prompt in prompts)) or "general"
