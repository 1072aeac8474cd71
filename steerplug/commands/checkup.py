"""What `steerplug doctor` checks, in order: the build, the folders, the model, the proofs on it.

Every check is tried on this very machine. What only the model can show is left out when it does not
load.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from steerplug.errors import EngineError, PresetError, SteerplugError, StoreError

Found = Callable[[], str]


@dataclass(frozen=True)
class Check:
    """One finding: what was checked, whether it holds, and a sentence on it."""

    name: str
    ok: bool
    detail: str


class Checkup:
    """The examination of one model on this machine.

    Args:
        model: how the user calls the model.
    """

    def __init__(self, model: str) -> None:
        self.said_of_model: dict[str, Any] | None = None
        self._model = model

    def checks(self) -> Iterator[Check]:
        """Yield each finding as it is made."""
        yield _checked("native library", _native)
        yield _checked("llama-cpp-python", _llama)
        yield _checked("cache folder", _cache)
        yield _checked("preset folder", _presets)
        yield from self._of_model()

    def _of_model(self) -> Iterator[Check]:
        from steerplug.commands.proofs import Proofs
        from steerplug.engine.model import Model
        from steerplug.model_file import find_model

        try:
            model = Model(find_model(self._model))
        except SteerplugError as error:
            yield Check("model", False, str(error))
            return
        self.said_of_model = _facts(model)
        yield Check("model", True, _in_words(self.said_of_model))
        try:
            proofs = Proofs(model)
        except SteerplugError as error:
            yield Check("hook", False, str(error))
        else:
            for name, found in proofs.all().items():
                yield _checked(name, found)
            proofs.close()
        model.close()


def _checked(name: str, found: Found) -> Check:
    try:
        return Check(name, True, found())
    except SteerplugError as error:
        return Check(name, False, str(error))


def _native() -> str:
    from steerplug.engine.native import library

    return str(library()._name)


def _llama() -> str:
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        raise EngineError(
            "llama-cpp-python is not installed as a package; run `pip install steerplug`."
        ) from None


def _cache() -> str:
    from steerplug.store import Store

    folder = Store().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"steerplug")
    except OSError as error:
        raise StoreError(
            f"the cache folder {folder} cannot be used ({error.strerror or error}); set "
            "STEERPLUG_CACHE to a folder with space that you may write to."
        ) from None
    return f"{folder} can be written"


def _presets() -> str:
    from steerplug.library import list_presets, user_folder

    found = list_presets()
    broken = [one.error for one in found if one.error]
    if broken:
        raise PresetError(str(broken[0]))
    shipped = sum(one.shipped for one in found)
    return f"{shipped} shipped presets, {len(found) - shipped} of yours in {user_folder()}"


def _facts(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": str(model.path),
        "architecture": model.architecture,
        "n_embd": model.n_embd,
        "n_layer": model.n_layer,
        "n_ctx_train": model.n_ctx_train,
        "chat_template": bool(model.chat_template),
        "recurrent": model.is_recurrent,
        "fingerprint": model.fingerprint,
    }


def _in_words(facts: dict[str, Any]) -> str:
    template = "a chat template" if facts["chat_template"] else "no chat template (use run --raw)"
    memory = "recurrent" if facts["recurrent"] else "not recurrent"
    return (
        "{name}: {architecture}, {n_layer} blocks of {n_embd} values, "
        f"{{n_ctx_train}} tokens of context, {template}, {memory}"
    ).format(**facts)
