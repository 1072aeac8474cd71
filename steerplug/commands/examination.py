"""What `steerplug doctor` checks, in order: the build, the folders, the model, the proofs on it.

Every check is tried on this very machine. What only the model can show is left out where it, or
llama.cpp itself, does not load. `checkup` runs this module as a program, which prints lines of
JSON: before each check its name, after it the finding, in the end the facts of the model.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from steerplug.engine.loading import DEFAULT, Loading
from steerplug.errors import EngineError, PresetError, SteerplugError

REINSTALL = (
    "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
)
"""What compiles llama.cpp anew, for this machine."""

Proof = Callable[[], str]
"""What it returns is said of a check that holds; it raises where one does not."""


@dataclass(frozen=True)
class Finding:
    """One finding: what was checked, whether it holds, and a sentence on it."""

    name: str
    ok: bool
    detail: str


class Examination:
    """The examination of one model on this machine, in this process.

    Args:
        model: how the user calls the model.
        loading: how it is loaded.
    """

    def __init__(self, model: str, loading: Loading = DEFAULT) -> None:
        self.facts: dict[str, Any] | None = None
        self._model, self._loading, self._runs = model, loading, True

    def checks(self, begin: Callable[[str], None] = lambda _name: None) -> Iterator[Finding]:
        """Yield each finding as it is made.

        Args:
            begin: told the name of each check before it is made.
        """
        self._begin = begin
        for name, prove in _OF_MACHINE.items():
            yield self._check(name, prove)
        if self._runs:
            yield from self._of_model()

    def _check(self, name: str, prove: Proof) -> Finding:
        self._begin(name)
        check = _checked(name, prove)
        self._runs &= check.ok or name not in _NEEDED
        return check

    def _of_model(self) -> Iterator[Finding]:
        self._begin("model")
        from steerplug.session.opening import open_model

        try:
            model = open_model(self._model, self._loading)
        except SteerplugError as error:
            yield Finding("model", False, str(error))
            return
        self.facts = _facts(model)
        yield Finding("model", True, _in_words(self.facts))
        yield from self._of_steering(model)
        model.close()

    def _of_steering(self, model: Any) -> Iterator[Finding]:
        self._begin("hook")
        from steerplug.engine.pace import measure
        from steerplug.engine.proofs import Proofs

        try:
            proofs = Proofs(model)
        except SteerplugError as error:
            yield Finding("hook", False, str(error))
        else:
            for name, prove in proofs.all().items():
                yield self._check(name, prove)
            proofs.close()
            yield self._check("threads", lambda: str(measure(model)))


def _checked(name: str, prove: Proof) -> Finding:
    try:
        return Finding(name, True, prove())
    except SteerplugError as error:
        return Finding(name, False, str(error))


def _native() -> str:
    from steerplug.engine.native import library

    return str(library()._name)


def _llama() -> str:
    try:
        installed = version("llama-cpp-python")
    except PackageNotFoundError:
        raise EngineError(
            "llama-cpp-python is not installed as a package; run `pip install steerplug`."
        ) from None
    try:
        import_module("steerplug.engine.context")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"llama-cpp-python {installed} cannot be loaded ({reason}); install it again with "
            f"`{REINSTALL}`."
        ) from None
    return installed


def _processor() -> str:
    from steerplug.engine import amx

    verdict = amx.find_verdict()
    if verdict is None:
        return "this build of llama.cpp has no AMX kernels"
    fate = "" if verdict.works else ", so they are left out; other kernels for this processor stay"
    return f"AMX kernels {verdict.why}{fate}"


def _cache() -> str:
    from steerplug.files.cache_folder import cache_folder, usable

    folder = cache_folder()
    with usable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"steerplug")
    return f"{folder} can be written"


def _presets() -> str:
    from steerplug.library.presets import list_presets, user_folder

    listings = list_presets()
    broken = [listing.error for listing in listings if listing.error]
    if broken:
        raise PresetError(str(broken[0]))
    shipped = sum(listing.shipped for listing in listings)
    return f"{shipped} shipped presets, {len(listings) - shipped} of yours in {user_folder()}"


_NEEDED = ("native library", "llama-cpp-python")
_OF_MACHINE: dict[str, Proof] = {
    "native library": _native,
    "llama-cpp-python": _llama,
    "processor": _processor,
    "cache folder": _cache,
    "preset folder": _presets,
}


def _facts(model: Any) -> dict[str, Any]:
    return {
        "name": model.metadata("general.name") or model.name,
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


def main() -> None:
    """Examine the model that the command line names, and print what is found as lines of JSON."""
    model, loading = sys.argv[1:]
    examination = Examination(model, Loading(**json.loads(loading)))
    for check in examination.checks(lambda name: _tell(begins=name)):
        _tell(check=vars(check))
    _tell(model=examination.facts)


def _tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
