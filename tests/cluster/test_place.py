"""One place of presets: what is there comes in, what is made goes out, what is torn does not."""

import logging
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from steerplug.cluster.place import Place
from steerplug.errors import StoreError
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering

FILE = "compiled/llama-8x2/sailor-0123456789abcdef.gguf"


def write(path: Path, size: float = 1.0) -> bytes:
    """Write a file of steering, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    z = np.full(8, size, np.float32)
    identity = Identity("sailor", "1.0.0", "d", "llama-8x2", "llama", "", "mean", 0, "0")
    write_steering(path, Steering("sailor", 8, 2, {1: Delta.constant(z)}), identity)
    return path.read_bytes()


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that is a folder, and one that is not."""
    there = f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path / "place")
    system, root = fsspec.url_to_fs(there)
    system.makedirs(root)
    system.pipe_file(f"{root}/sailor.yaml", b"name: sailor")
    system.pipe_file(f"{root}/notes.txt", b"not ours")
    return there


@pytest.fixture
def node(tmp_path: Path) -> Callable[[str, str], Place]:
    return lambda url, name: Place(url, tmp_path / name)


def test_what_one_node_compiles_the_others_have(
    url: str, node: Callable[[str, str], Place], tmp_path: Path
) -> None:
    one, other = node(url, "one"), node(url, "other")
    for each in (one, other):
        each.pull()
        assert [path.name for path in each.folder.iterdir() if path.is_file()] == ["sailor.yaml"]
    content = write(one.folder / FILE)
    one.push()
    one.pull()
    other.pull()
    assert (other.folder / FILE).read_bytes() == content
    system, root = fsspec.url_to_fs(url)
    system.rm(f"{root}/sailor.yaml")
    system.pipe_file(f"{root}/{FILE}", write(tmp_path / "new.gguf", 2.0))
    other.pull()
    assert not (other.folder / "sailor.yaml").exists()
    assert (other.folder / FILE).read_bytes() != content


def test_a_file_that_is_not_what_it_says_is_not_taken_and_the_old_one_stays(
    url: str, node: Callable[[str, str], Place], caplog: pytest.LogCaptureFixture
) -> None:
    place = node(url, "one")
    system, root = fsspec.url_to_fs(url)
    content = write(place.folder / FILE)
    place.push()
    for wrong in (content[:-1], content[:-3] + b"\x7f" + content[-2:], b"", b"GGUF"):
        with caplog.at_level(logging.WARNING):
            system.pipe_file(f"{root}/{FILE}", wrong)
            place.pull()
        assert (place.folder / FILE).read_bytes() == content
        assert f"{url}/{FILE} is not taken: " in caplog.text
        assert len(list((place.folder / FILE).parent.iterdir())) == 1
        caplog.clear()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("/no/such/place", "there is no folder /no/such/place; make it"),
        ("memory://no-such-place", "there is no folder memory://no-such-place"),
        ("nosuch://bucket", "nosuch://bucket is no place of presets"),
    ],
)
def test_a_place_that_cannot_be_used_is_a_sentence(
    url: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=sentence):
        Place(url, tmp_path)
