"""The README of a pack, written from its presets.

What is between the two marks is ours and made anew each time; what an author writes around them
stays. A README without marks gets them at its end.
"""

from collections.abc import Iterable

from steerplug.files.text import markdown
from steerplug.packs.contents import Contents, Numbers
from steerplug.preset import Preset
from steerplug.store.figures import NOT_MEASURED, gap_closed

BEGIN = "<!-- written by `steerplug pack`; edit the presets, or around this -->"
END = "<!-- end of what `steerplug pack` writes -->"


def with_presets(readme: str, contents: Contents) -> str:
    """Return a README with the section about the presets in its place."""
    before, begun, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2] if begun else "\n"
    if before.strip() and not before.endswith("\n\n"):
        before = before.rstrip("\n") + "\n\n"
    return f"{before}{BEGIN}\n{_section(contents)}{END}{after}"


def _section(contents: Contents) -> str:
    head = contents.head
    about = f"{markdown(head.description)}\n\n" if head.description else ""
    presets = [preset for _, preset in sorted(contents.presets.items())]
    rows = "\n".join(_row(preset, contents.numbers) for preset in presets)
    return f"""
# {head.name} {head.version}

{about}A pack of presets for [steerplug](https://github.com/steerplug/steerplug): instructions as
small files that steer a local model. Licence: {markdown(head.license) or "none is stated"}.

    steerplug add WHERE-THIS-IS
    steerplug run --steer {head.name}/{min(contents.presets)} "..."

| preset | what it does | strength | gap to the prompt closed |
|---|---|---|---|
{rows}

The last column is what the author measured, for the models that steering comes with; until
`steerplug eval` has run on your machine it is a claim. `steerplug build` makes steering for others.

"""


def _row(preset: Preset, numbers: Iterable[Numbers]) -> str:
    claims = ", ".join(
        f"{gap_closed(file.fidelity)} on {file.model.rpartition('-')[0]}"
        for file in numbers if file.preset == preset.name
    )  # fmt: skip
    strength = f"{preset.strength.min:g} to {preset.strength.max:g}"
    cells = preset.name, markdown(preset.description), strength, markdown(claims) or NOT_MEASURED
    return f"| {' | '.join(cells)} |"
