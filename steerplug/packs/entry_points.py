"""Packs that Python packages ship, found without importing any of them.

A package says in its metadata, under the group `steerplug.packs`, which of its folders is a pack:

    [project.entry-points."steerplug.packs"]
    sea = "sea_presets.pack"

The value is the folder as dotted words, below the package. What the package's `pack.lock` says when
a process first looks is what holds for that process; pip, not a lock of ours, pins the version.
"""

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from steerplug.errors import PackError
from steerplug.files.yaml_file import MAX_BYTES
from steerplug.packs.lock import Pinned
from steerplug.packs.manifest import (
    HEAD,
    LOCK,
    digest,
    read_head,
    read_manifest,
)
from steerplug.packs.pack import Pack
from steerplug.packs.source import Folder

GROUP = "steerplug.packs"
log = logging.getLogger(__name__)


@cache
def packages() -> dict[str, Pack]:
    """Return the packs of Python packages by name; a broken one is left out with a warning."""
    packs: dict[str, Pack] = {}
    for point in entry_points(group=GROUP):
        try:
            pack = _pack(point)
        except PackError as error:
            log.warning("%s", error)
            continue
        if pack.name in packs:
            log.warning(
                "the packages %s and %s both ship a pack `%s`; the second is left out, so "
                "uninstall one.", packs[pack.name].package, pack.package, pack.name,
            )  # fmt: skip
            continue
        packs[pack.name] = pack
    return packs


def _pack(point: EntryPoint) -> Pack:
    package = point.dist.name if point.dist else point.value
    label = f"the pack `{point.name}` of the package {package}"
    source = Folder(_folder(point, label), label)
    ((_, lock),) = source.read({LOCK: MAX_BYTES})
    manifest = read_manifest(lock, f"{label}: {LOCK}")
    ((_, content),) = source.read({HEAD: MAX_BYTES})
    if digest(content) != manifest.files[HEAD]:
        raise PackError(f"{label}: {HEAD} is not what pack.lock says; install {package} again.")
    head = read_head(content, f"{label}: {HEAD}")
    if head.name != point.name:
        raise PackError(f"{label} calls itself `{head.name}`; its author gives both one name.")
    pinned = Pinned(
        ref=package, sha256=digest(lock), version=head.version, license=head.license,
        presets=manifest.presets,
    )  # fmt: skip
    return Pack(head.name, pinned, source.root, package)


def _folder(point: EntryPoint, label: str) -> Path:
    """Return the folder that dotted words name; only the first is looked up, and none imported."""
    top, *below = point.value.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place, *below)
        if folder.is_dir():
            return folder
    raise PackError(f"{label} is not where its entry point says; install the package again.")
