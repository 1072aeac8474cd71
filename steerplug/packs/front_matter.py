"""The front matter of a pack's README, by which the model hub lists it among a model's adapters.

What is between the two comments is ours and made anew each time. A key that the author says around
them is the author's, and is left out of ours.
"""

import yaml

from steerplug.errors import PackError, PresetError
from steerplug.files.yaml_file import read_yaml
from steerplug.packs.contents import Contents
from steerplug.packs.manifest import README

BEGIN = "# written by `steerplug pack`; a key that you write around this is yours"
END = "# end of what `steerplug pack` writes"
_FENCE = "---\n"
_TAGS = ("steerplug", "activation-steering", "llama.cpp")
_MOST_TAGS = 32
_LICENSES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "afl-3.0", "artistic-2.0",
    "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "epl-2.0", "eupl-1.1", "agpl-3.0", "gpl", "gpl-2.0",
    "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "isc", "ms-pl", "mpl-2.0", "osl-3.0", "unlicense",
    "wtfpl", "zlib", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
})  # fmt: skip
"""What the hub calls licences; of every other it is told `other`, and the name."""


def with_front_matter(readme: str, contents: Contents, label: str) -> str:
    """Return a README with front matter for the hub at its head.

    Raises:
        PackError: what it begins with looks like front matter, and is none.
    """
    own, body = _parts(readme, f"{label}: {README}")
    before, begun, rest = own.partition(f"{BEGIN}\n")
    own = before + (rest.partition(f"{END}\n")[2] if begun else "")
    theirs = _keys(own, f"{label}: {README}")
    ours = {key: value for key, value in _said(contents).items() if key not in theirs}
    text: str = yaml.safe_dump(ours, sort_keys=False, allow_unicode=True, width=10_000)
    return f"{_FENCE}{own}{BEGIN}\n{text}{END}\n{_FENCE}{body}"


def _parts(readme: str, source: str) -> tuple[str, str]:
    """Return the front matter of a README, without its fences, and the rest."""
    readme = readme.replace("\r\n", "\n")
    if not readme.startswith(_FENCE):
        return "", readme
    head, ended, body = f"\n{readme.removeprefix(_FENCE)}".partition(f"\n{_FENCE}")
    if not ended:
        raise PackError(f"{source} begins with `---` that no line ends; close its front matter.")
    return f"{head[1:]}\n" if head else "", body


def _keys(text: str, source: str) -> set[str]:
    """Return the keys that the author says."""
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.split("\n")):
        return set()
    try:
        return {*read_yaml(f"\n{text}".encode(), source, "`license: mit`").data}
    except PresetError as error:
        raise PackError(f"{str(error).removesuffix('.')}, in its front matter.") from None


def _said(contents: Contents) -> dict[str, object]:
    """Return what there is to say of a pack, by the hub's keys."""
    head = contents.head
    presets = [preset for _, preset in sorted(contents.presets.items())]
    tags = dict.fromkeys((*_TAGS, *(tag for preset in presets for tag in preset.tags)))
    said: dict[str, object] = {"library_name": "steerplug", "tags": [*tags][:_MOST_TAGS]}
    if head.base_model:
        said |= {"base_model": list(head.base_model), "base_model_relation": "adapter"}
    licence = head.license.lower()
    if licence in _LICENSES:
        said["license"] = licence
    elif licence:
        said |= {"license": "other", "license_name": head.license}
    return said
