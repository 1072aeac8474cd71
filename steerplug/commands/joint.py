"""`steerplug build "a + b" --as NAME`: presets become one, whose teacher is all their prompts."""

from typing import TYPE_CHECKING, Any

from steerplug.commands.output import say
from steerplug.errors import PresetError

if TYPE_CHECKING:
    from steerplug.preset import Preset


def joint_preset(words: str, name: str) -> "Preset":
    """Return the preset that a mix becomes as one, from the user's folder if it is there already.

    Raises:
        PresetError: the mix subtracts, has strengths or contrasts, or is of one preset alone; or
            there is another preset of that name.
    """
    from steerplug.library.presets import load_preset, user_folder
    from steerplug.library.save import save_preset
    from steerplug.preset.mix import parse_mix

    ingredients = parse_mix(words)
    if len(ingredients) < 2:
        raise PresetError(f"`{words}` is no sum of presets; name two or more, as in `a + b`.")
    for one in ingredients:
        if one.sign < 0 or one.strength not in (None, 1.0):
            raise PresetError(
                f"`{words}` has strengths or takes away, and prompts have no strengths; name the "
                f"presets alone, as in `{' + '.join(each.reference for each in ingredients)}`."
            )
    preset = _jointly([load_preset(one.reference) for one in ingredients], name)
    if (user_folder() / f"{name}.yaml").exists() and load_preset(name).digest == preset.digest:
        return load_preset(name)
    say(f"Written to {save_preset(preset)}.")
    return preset


def _jointly(presets: "list[Preset]", name: str) -> "Preset":
    from steerplug.evaluate.mixed import mixed
    from steerplug.preset import Preset
    from steerplug.preset.from_prompt import FIT

    for preset in presets:
        if preset.teacher is None:
            raise PresetError(
                f"`{preset.name}` is a contrast of texts and has no prompt to join; leave it out, "
                "and add it to the mix where that is used."
            )
    whole = mixed(presets, [True] * len(presets))
    data: dict[str, Any] = whole.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if any(preset.scope == "all" for preset in presets):
        data["scope"] = "all"
    names = ", ".join(preset.name for preset in presets)
    data |= {
        "name": name, "description": f"Does at once what these do: {names}.",
        "fit": {**FIT, "prompts": data["fit"]["prompts"]},
    }  # fmt: skip
    return Preset.from_mapping(data, f"the mix `{name}`")
