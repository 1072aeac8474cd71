"""A pack made in one environment and used in another, fresh one, with the network gone."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from steerplug.library.presets import shipped_folder

ROOT = Path(__file__).parents[2]
ALONE = """
import socket, sys
def gone(*_): raise OSError("the network is gone")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = gone
from steerplug.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


def steerplug(home: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user of that home, without a network and without git."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", ALONE, *words], capture_output=True, text=True, check=False,
        cwd=home, env={**kept, "HOME": str(home), "PATH": "", "PYTHONPATH": str(ROOT),
                       "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def said(ran: "subprocess.CompletedProcess[str]") -> Any:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.usefixtures("model_path")
def test_a_pack_made_here_steers_elsewhere_and_the_receipt_names_it(tmp_path: Path) -> None:
    author, user = tmp_path / "author", tmp_path / "user"
    sea = author / "sea"
    sea.mkdir(parents=True)
    (sea / "pirate.yaml").write_bytes((shipped_folder() / "pirate.yaml").read_bytes())
    cache = str(shipped_folder() / "compiled")
    made = said(steerplug(author, "pack", "sea", "--compiled", "--json", STEERPLUG_CACHE=cache))
    (claimed,) = made["presets"][0]["compiled"]
    with zipfile.ZipFile(tmp_path / "sea.zip", "w") as archive:
        for path in sea.rglob("*"):
            archive.write(path, path.relative_to(sea))

    (added,) = said(steerplug(user, "add", "../sea.zip", "--yes", "--json"))["packs"]
    assert (added["sha256"], added["added"]) == (made["sha256"], True)
    (tmp_path / "sea.zip").unlink()
    words = ("run", "What is honey?", "-s", "sea/pirate", "--max-tokens", "8", "--json")
    (one,) = said(steerplug(user, *words))["receipt"]["steering"]
    assert (one["name"], one["version"], one["pack"]) == ("pirate", "1.1.0", "sea@1.0.0")
    assert one["digest"] == claimed["digest"]
    assert not list((user / ".cache").rglob("*.gguf"))
    in_words = steerplug(user, *words[:-1]).stderr
    assert "steered by pirate of sea@1.0.0: " in in_words

    (numbers,) = user.rglob("pirate-*.gguf")
    content = numbers.read_bytes()
    numbers.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ran = steerplug(user, *words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"`{numbers.relative_to(numbers.parents[2]).as_posix()}` was changed since" in ran.stderr
