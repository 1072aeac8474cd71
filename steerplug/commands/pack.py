"""`steerplug pack`: make a folder of presets something other people can add, or refresh it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from steerplug.commands.options import Json
from steerplug.commands.output import print_fields, print_json, put, say, screen
from steerplug.commands.show_pack import presets, show_presets
from steerplug.errors import PackError

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder with the YAML files of presets.")
]
Compiled = Annotated[
    bool,
    typer.Option("--compiled", help="Take along the steering that was built here for them."),
]


def pack(folder: Folder, compiled: Compiled = False, as_json: Json = False) -> None:
    """Make a folder of presets a pack: check them, write its README.md and pack.lock."""
    from steerplug.files.cache_folder import cache_folder
    from steerplug.files.home import at_home
    from steerplug.packs.make import make_pack

    made = make_pack(at_home(folder, PackError), cache_folder() if compiled else None)
    contents = made.contents
    if as_json:
        print_json({
            "pack": contents.head.name, "version": contents.head.version,
            "license": contents.head.license, "base_model": list(contents.head.base_model),
            "sha256": contents.digest,
            "size_bytes": contents.size, "n_files": len(contents.manifest.files) + 1,
            "presets": presets(contents), "changed": list(made.changed),
        })  # fmt: skip
        return
    put(f"{contents.title} is a pack.\n")
    show_presets(presets(contents))
    screen().print()
    print_fields(
        license=contents.head.license or "none is stated; write one in pack.yaml",
        size=f"{contents.size / 1000:.0f} kB in {len(contents.manifest.files) + 1} files",
        sha256=contents.digest,
        changed=", ".join(made.changed) or "nothing",
    )
    steered = {file.preset for file in contents.numbers}
    if compiled and (missing := sorted(contents.presets.keys() - steered)):
        say(f"Without steering, as no full build of them is kept here: {', '.join(missing)}.")
    if contents.numbers and not contents.head.base_model:
        say(f"Name the models its steering is for as `base_model: [org/model]` in "
            f"{folder / 'pack.yaml'}; the hub then shows it beside them.")  # fmt: skip
    if made.changed and made.old_version == contents.head.version:
        say(f"The version is still {made.old_version}; raise it in {folder / 'pack.yaml'}.")
    say(
        f"Next: `steerplug add {_path(folder)}` tries it here; pushed to a repository, it is "
        "`steerplug add gh:owner/repo`."
    )


def _path(folder: Path) -> str:
    """Return a folder as `add` reads it, which takes a bare word for something else."""
    path = str(folder)
    return shlex.quote(path if path.startswith((".", "/", "~")) else f"./{path}")
