"""`langchain-steerplug`, the second distribution of this repository."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

import steerplug.langchain
from steerplug.version import __version__

SOURCE = Path(steerplug.langchain.__file__).parent / "distribution"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the built wheel's content."""
    folder = tmp_path_factory.mktemp("distribution")
    shutil.copytree(SOURCE, folder / "source")  # a build leaves files beside its source
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--wheel-dir", folder, folder / "source"], check=True,
    )  # fmt: skip
    (wheel,) = folder.glob("langchain_steerplug-*.whl")
    shutil.unpack_archive(wheel, folder / "installed", "zip")
    return folder / "installed"


def test_the_wheel_has_the_version_and_needs_the_same_steerplug(installed: Path) -> None:
    (info,) = installed.glob("*.dist-info")
    metadata = PathDistribution(info)
    assert metadata.version == __version__
    assert metadata.requires == [f"steerplug[agents]=={__version__}"]


def test_the_python_of_its_readme_runs_on_steerplugs_own_names(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    ours = import_module("langchain_steerplug")
    assert ours.ChatSteerplug is steerplug.langchain.ChatSteerplug
    assert all(hasattr(ours, name) for name in ours.__all__)
    text = (SOURCE / "README.md").read_text("utf-8")
    for source in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()
