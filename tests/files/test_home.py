"""Paths below the home of nobody are one sentence, wherever they come from."""

from pathlib import Path

import pytest

from steerplug.commands.main import main
from steerplug.engine.loading import Loading
from steerplug.errors import SteerplugError
from steerplug.store.store import Store

NOBODY = "~nobody-of-that-name/x"


@pytest.mark.parametrize("folder", ["CACHE", "PRESETS", "PACKS"])
def test_a_variable_names_a_home_of_nobody(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"STEERPLUG_{folder}", NOBODY)
    assert main(["presets", "-m", "smollm2"]) == 2
    said = capsys.readouterr().err
    assert f"{NOBODY} cannot be found, for `~nobody-of-that-name` is nobody's home" in said
    assert f"set STEERPLUG_{folder} to a folder." in said


@pytest.mark.parametrize(
    "opens",
    [
        lambda: Store(Path(NOBODY)),
        lambda: Loading(lora=((NOBODY, 1.0),)),
        lambda: Loading(chat_template=NOBODY),
    ],
)
def test_a_path_names_a_home_of_nobody(opens: object) -> None:
    with pytest.raises(SteerplugError, match="is nobody's home; give its whole path"):
        opens()  # type: ignore[operator]
